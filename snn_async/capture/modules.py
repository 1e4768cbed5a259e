"""Which layer of a graph each module of torch is, and which modules cannot be one."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn import modules as torch_modules

from snn_async.capture.layers import ConvolutionLayer, LinearLayer, NormLayer, Operation
from snn_async.capture.pooling import AdaptivePoolLayer, PoolLayer, UpsampleLayer, pair
from snn_async.errors import UnsupportedModelError

NORM_WAY_OUT = "use nn.BatchNorm1d or nn.BatchNorm2d, whose running statistics fold into the weights"
_ADD_UP = "it is not linear: currents of events must add up; put a spiking neuron there"
_NONLINEAR = (
    torch_modules.activation,
    torch_modules.rnn,
    torch_modules.transformer,
    torch_modules.loss,
    torch_modules.distance,
)
_NORMS = (torch_modules.normalization, torch_modules.instancenorm)


def _linear(name: str, place: str, module: Any) -> Operation:
    return LinearLayer(name, place, module)


def _convolution(name: str, place: str, module: Any) -> Operation:
    if module.padding_mode != "zeros":
        raise UnsupportedModelError(
            f"{place}: padding_mode={module.padding_mode!r} is not supported; use padding_mode='zeros'"
        )
    return ConvolutionLayer(name, place, module)


def _norm(name: str, place: str, module: Any) -> Operation:
    check_statistics(place, module)
    return NormLayer(name, place, module)


def check_statistics(place: str, module: Any) -> None:
    """Raise UnsupportedModelError for a BatchNorm that has no running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise UnsupportedModelError(
            f"{place}: it has no running statistics (track_running_stats=False), and a single event has no batch to "
            "take any of; train it with track_running_stats=True"
        )


def _max_pool(sides: int) -> Callable[..., Operation]:
    def make(name: str, place: str, module: Any) -> Operation:
        check_indices(place, module.return_indices)
        return PoolLayer(
            name,
            place,
            sides,
            "max",
            pair(module.kernel_size, sides),
            pair(module.stride, sides),
            pair(module.padding, sides, 0),
            pair(module.dilation, sides),
            module.ceil_mode,
        )

    return make


def check_indices(place: str, wanted: bool) -> None:
    """Raise UnsupportedModelError for a max pooling that returns indices."""
    if wanted:
        raise UnsupportedModelError(
            f"{place}: return_indices=True is not supported; events carry no indices, use False"
        )


def _average_pool(sides: int) -> Callable[..., Operation]:
    def make(name: str, place: str, module: Any) -> Operation:
        return PoolLayer(
            name,
            place,
            sides,
            "average",
            pair(module.kernel_size, sides),
            pair(module.stride, sides),
            pair(module.padding, sides, 0),
            ceil=module.ceil_mode,
            include_padding=module.count_include_pad,
            divisor=getattr(module, "divisor_override", None),
        )

    return make


def _adaptive(sides: int, kind: Any) -> Callable[..., Operation]:
    def make(name: str, place: str, module: Any) -> Operation:
        check_indices(place, getattr(module, "return_indices", False))
        return AdaptivePoolLayer(name, place, sides, kind, adaptive_output(module.output_size, sides))

    return make


def adaptive_output(size: Any, sides: int) -> tuple[int | None, int | None]:
    """Return the height and width that an adaptive pooling gives, None to keep one."""
    values = tuple(size) if isinstance(size, tuple | list) else (size,) * sides
    return (1, values[0]) if sides == 1 else (values[0], values[1])


def upsampling(name: str, place: str, size: Any, factor: Any, sides: int = 2) -> Operation | None:
    """Return a nearest upsampling, None for one that is not by a whole factor."""
    if size is None and factor is None:
        raise ValueError("give size or scale_factor")
    for given in (size, factor):
        if isinstance(given, tuple | list) and len(given) != sides:
            raise ValueError(f"give {sides} values")
    if size is not None:
        if min(pair(size, sides)) < 1:
            raise ValueError("give a size of at least 1")
        return UpsampleLayer(name, place, sides, pair(size, sides), None)
    factors = factor if isinstance(factor, tuple | list) else (factor,) * sides
    if any(f != int(f) for f in factors):
        return None
    if any(f < 1 for f in factors):
        raise ValueError("give a scale_factor of at least 1")
    return UpsampleLayer(name, place, sides, None, pair(tuple(map(int, factors)), sides))


def _upsample(name: str, place: str, module: Any) -> Operation | None:
    if module.mode != "nearest":
        return None
    return upsampling(name, place, module.size, module.scale_factor)


KINDS: dict[type, Callable[[str, str, Any], Operation | None]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.MaxPool1d: _max_pool(1),
    nn.MaxPool2d: _max_pool(2),
    nn.AvgPool1d: _average_pool(1),
    nn.AvgPool2d: _average_pool(2),
    nn.AdaptiveMaxPool1d: _adaptive(1, "max"),
    nn.AdaptiveMaxPool2d: _adaptive(2, "max"),
    nn.AdaptiveAvgPool1d: _adaptive(1, "average"),
    nn.AdaptiveAvgPool2d: _adaptive(2, "average"),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
}


def kind_of(module: nn.Module) -> type | None:
    """Return the class of `KINDS` that a module is or derives from."""
    return next((cls for cls in type(module).__mro__ if cls in KINDS), None)


def refusal(module: nn.Module) -> str | None:
    """Return why a module of torch can be no layer of a graph, None if that is not known beforehand."""
    if type(module).__name__.endswith("3d"):
        return "volumes have no grid of channels, height and width; use the layer for images, and time as timesteps"
    package = next(
        (cls.__module__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.nn")), ""
    )
    if any(package == known.__name__ for known in _NONLINEAR):
        return _ADD_UP
    if any(package == known.__name__ for known in _NORMS):
        return f"it takes statistics of a whole sample, a barrier; {NORM_WAY_OUT}"
    if isinstance(module, torch_modules.batchnorm._BatchNorm):
        return f"this BatchNorm is not mapped; {NORM_WAY_OUT}"
    if isinstance(module, torch_modules.dropout._DropoutNd):
        return "it drops whole channels or keeps statistics; use nn.Dropout"
    if "MaxUnpool" in type(module).__name__ or isinstance(module, nn.LPPool1d | nn.LPPool2d):
        return _ADD_UP
    return None
