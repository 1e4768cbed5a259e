"""Source models as graphs; a library's adapter is imported only when a model uses the library."""

from torch import nn

from snn_async.adapters.folding import fold
from snn_async.adapters.interpreting import interpret
from snn_async.adapters.libraries import adapter_of, check_module
from snn_async.adapters.tracing import preserved, trace
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Graph

__all__ = ["build_graph", "check_unchanged"]


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


def check_unchanged(graph: Graph, model: nn.Module) -> None:
    """Raise UnsupportedModelError if a module of the graph was replaced or reconfigured since it was built.

    Parameters may change, in place or by assignment: they are read at every run.
    """
    present = {id(module) for module in model.modules()}
    parts = [(p.name, p.neuron.module) for p in graph.populations]
    parts += [(p.name, layer) for p in graph.projections for layer in p.layers]
    for name, module in parts:
        if id(module) not in present:
            raise UnsupportedModelError(
                f"{name!r}: a module of the model was replaced after asynchronize; call asynchronize again"
            )
    for population in graph.populations:
        module = population.neuron.module
        check_module(population.name, module)
        adapter = adapter_of(module)
        if adapter and adapter.make_neuron(population.name, module, population.size) != population.neuron:
            raise UnsupportedModelError(
                f"{population.name!r}: its reset, surrogate or options were changed after asynchronize; "
                "call asynchronize again"
            )
