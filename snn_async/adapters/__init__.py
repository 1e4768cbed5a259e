"""Source models as graphs; a library's adapter is imported only when a model uses the library."""

from torch import nn

from snn_async.adapters.folding import fold
from snn_async.adapters.interpreting import interpret
from snn_async.adapters.libraries import check_module
from snn_async.adapters.tracing import preserved, trace
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Graph

__all__ = ["build_graph"]


def build_graph(model: nn.Module) -> Graph:
    """Return the populations and projections of `model`, which is left as it was.

    Args:
        model: an snnTorch or SpikingJelly model of Flatten, Linear, Dropout, Identity and spiking neurons: an
            `nn.Sequential`, a module whose forward is one timestep, or one that loops over a fixed number of
            equal steps. SpikingJelly models may be in either step mode.

    Raises:
        UnsupportedModelError: for anything that cannot be mapped exactly, with its place and the way out.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the model is a {type(model).__name__}; pass a torch.nn.Module")
    for path, module in model.named_modules():
        check_module(path, module)
    with preserved(model):
        traced = interpret(model, trace(model))
    return fold(model, traced)
