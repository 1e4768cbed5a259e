"""snnTorch 1.0 neurons as neuron models: which class is which, and how a class's own step is run."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import check_sizes, firing, potential_first, rules_of, scalar
from snn_async.frameworks.refractory_options import options_of
from snn_async.neurons import LinearNeuron, LinearParameters, Neuron
from snn_async.neurons.delta import DeltaNeuron, DeltaParameters
from snn_async.neurons.own_step import OwnStep, States, twin
from snn_async.neurons.probing import probed_neuron, shape_for, step_fails
from snn_async.neurons.surrogates import Mapped
from snn_async.neurons.window import WindowNeuron, WindowParameters

WRITTEN_OUT = (  # subclasses first
    *(snntorch.DeltaLeaky, snntorch.Leaky, snntorch.Lapicque, snntorch.RLeaky),
    *(snntorch.LinearLeaky, snntorch.StateLeaky),
)
_RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}


def make(where: str, path: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    """Return the neuron model of a module of a class that is not refused."""
    if module.inhibition:
        raise UnsupportedModelError(
            f"{where}: inhibition=True compares all neurons of the layer at once, a barrier; "
            "use inhibition=False"
        )
    base = rules_of(module, WRITTEN_OUT)
    if base is snntorch.DeltaLeaky:
        return _delta(where, path, module, shape)
    if base in (snntorch.LinearLeaky, snntorch.StateLeaky):
        return _state_leaky(where, path, module, shape)
    if base is not None and _keeps_state_function(module) and not module.state_quant:
        return _linear(where, path, module, base, shape)
    return _probed(where, path, module, shape)


# -- written out ---------------------------------------------------------------------------------------


def _linear(where: str, path: str, module: Any, base: type, shape: tuple[int, ...] | None) -> Neuron:
    """snnTorch's reset of Leaky acts before the leak, of the others after it, swallowing the timestep's current."""
    kind = _reset_of(where, module)
    at_once = base is not snntorch.Lapicque and not module.reset_delay
    if base is snntorch.Lapicque:
        _check_lapicque(where, module)
        check_sizes(path, module, shape, R=module.R, C=module.C, threshold=module.threshold)
    else:
        check_sizes(path, module, shape, beta=module.beta, threshold=module.threshold)
    lowest = float(scalar(module.threshold).detach().min())
    if kind == "zero" and at_once and lowest < 0:
        raise UnsupportedModelError(
            f"{where}: threshold {lowest} < 0 with reset_mechanism='zero' and reset_delay=False lets "
            "snnTorch double the potential after a reset; use a threshold of at least 0 or reset_delay=True"
        )
    to_zero = "value" if at_once or base is snntorch.Leaky else "swallow"
    reset: Any = {"subtract": "subtract", "zero": to_zero, "none": None}[kind]
    return LinearNeuron(
        module=module,
        parameters=_noticing(module, _read_lapicque if base is snntorch.Lapicque else _read_leaky),
        surrogate=module.spike_grad,
        **firing(where, module.spike_grad),
        reset=(reset if at_once else None) or "none",
        delayed_reset=None if at_once else reset,
        retest_residual=at_once and kind == "subtract",
        **options_of(module),
    )


def _keeps_state_function(module: Any) -> bool:
    function = module.state_function
    return getattr(function, "__self__", None) is module and function.__name__ in _RESETS


def _reset_of(where: str, module: Any) -> str:
    """Return the reset mechanism that the neuron was constructed with, which it keeps."""
    kept = _RESETS[module.state_function.__name__]
    now = list(snntorch.SpikingNeuron.reset_dict)[int(module.reset_mechanism_val)]
    if now != kept:
        raise UnsupportedModelError(
            f"{where}: reset_mechanism became {now!r} after construction, but snnTorch goes on with "
            f"{kept!r}; construct the neuron with reset_mechanism={now!r}"
        )
    return kept


def _check_lapicque(where: str, module: Any) -> None:
    if isinstance(module.beta, nn.Parameter):
        raise UnsupportedModelError(
            f"{where}: learn_beta=True has no effect in snnTorch, which computes R and C from beta once; "
            "use learn_beta=False, or Leaky to learn beta"
        )


def _read_leaky(module: Any) -> LinearParameters:
    return LinearParameters(
        leak=scalar(module.beta).clamp(0, 1),
        gain=scalar(1.0),
        offset=scalar(0.0),
        threshold=scalar(module.threshold),
    )


def _read_lapicque(module: Any) -> LinearParameters:
    rate = scalar(module.time_step) / scalar(module.C)
    return LinearParameters(
        leak=1 - rate / scalar(module.R),
        gain=rate,
        offset=torch.zeros_like(rate),
        threshold=scalar(module.threshold),
    )


def _state_leaky(where: str, path: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    """mem_t = sum_k exp(-k / tau) x_(t - k), a leak without a reset; snnTorch convolves all timesteps at once."""
    if module.state_quant:
        raise UnsupportedModelError(f"{where}: state_quant is not supported with it; use state_quant=False")
    check_sizes(path, module, shape, tau=module.tau, threshold=module.threshold)
    members: dict[str, Any] = dict(
        module=module,
        surrogate=module.spike_grad,
        **firing(where, module.spike_grad),
        reset="none",
        spiking=bool(module.output),
        **options_of(module),
    )
    if module.kernel_truncation_steps is not None:
        return WindowNeuron(**members, parameters=_noticing(module, _read_truncated))
    return LinearNeuron(**members, parameters=_noticing(module, _read_state_leaky))


def _read_truncated(module: Any) -> WindowParameters:
    ago = torch.arange(module.kernel_truncation_steps, device=module.tau.device)
    weight = torch.exp(-ago[:, None] / module.tau.reshape(-1))
    return WindowParameters(weight[None], -module.threshold.reshape(1, -1))


def _read_state_leaky(module: Any) -> LinearParameters:
    return LinearParameters(
        leak=torch.exp(-1 / scalar(module.tau)),
        gain=scalar(1.0),
        offset=scalar(0.0),
        threshold=scalar(module.threshold),
    )


def _delta(where: str, path: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    check_sizes(path, module, shape, beta=module.beta)
    if not isinstance(module.delta_threshold, int | float):
        raise UnsupportedModelError(
            f"{where}: delta_threshold is a {type(module.delta_threshold).__name__}; give a number"
        )
    return DeltaNeuron(
        module=module,
        parameters=_noticing(module, _read_delta),
        surrogate=Mapped(module.spike_grad, torch.abs, float(module.delta_threshold)),
        inclusive=firing(where, module.spike_grad)["inclusive"],
        binary=False,
        reset="none",
        **options_of(module),
    )


def _read_delta(module: Any) -> DeltaParameters:
    return DeltaParameters(scalar(module.beta), scalar(module.delta_threshold))


# -- by its own step -----------------------------------------------------------------------------------


def _probed(where: str, path: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    sizes = {name: getattr(module, name, 0.0) for name in ("alpha", "beta", "threshold")}
    check_sizes(path, module, shape, **sizes)
    if grades(module) and not type(module).__module__.startswith(("snntorch.", "snn_async.")):
        raise UnsupportedModelError(
            f"{where}: what a class of one's own does with graded_spikes_factor is not known; use 1.0, and multiply "
            "its spikes after it"
        )
    fires, surrogate = firing(where, module.spike_grad), module.spike_grad
    graded = not fires["binary"]
    if module.state_quant:
        surrogate, fires = _quantized(where, module), {"inclusive": False, "binary": False}
    shape = shape_for(copied(module, charging=False), shape)
    members = {"surrogate": surrogate} | fires | options_of(module)
    return probed_neuron(where, module, _step_of(where, module, shape), shape, graded, **members)


def _quantized(where: str, module: Any) -> Mapped:
    if module.threshold.numel() != 1:
        raise UnsupportedModelError(
            f"{where}: state_quant needs one threshold for all neurons, not {module.threshold.numel()}"
        )
    if isinstance(module.threshold, nn.Parameter):
        raise UnsupportedModelError(
            f"{where}: learn_threshold=True is not supported with state_quant; use learn_threshold=False"
        )
    return Mapped(module.spike_grad, module.state_quant, float(module.threshold))


def grades(module: Any) -> bool:
    """Return whether a module has a factor on its spikes that is not 1 for good."""
    factor: Any = getattr(module, "graded_spikes_factor", None)
    return factor is not None and (isinstance(factor, nn.Parameter) or bool((factor != 1).any()))


def check_ungraded(module: Any) -> None:
    """Raise UnsupportedModelError if a module got a factor on its spikes that the graph does not have."""
    if grades(module):
        raise UnsupportedModelError(
            f"snntorch.{type(module).__name__}: its graded_spikes_factor was 1 and was changed after asynchronize; "
            "call asynchronize again"
        )


@dataclass(frozen=True)
class _Ungraded:
    """Reads a module's parameters as long as it has no factor on its spikes."""

    read: Callable[[Any], Any]

    def __call__(self, module: Any) -> Any:
        check_ungraded(module)
        return self.read(module)


def _noticing(module: Any, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `read`, which also notices a factor on spikes if there was none."""
    return read if grades(module) else _Ungraded(read)


def state_names(module: Any) -> tuple[str, ...]:
    """Return the states that a call takes, in its order."""
    if isinstance(module, snntorch.StateLeaky):
        return ()
    parameters = list(inspect.signature(type(module).forward).parameters.values())[2:]
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _step_of(where: str, module: Any, shape: tuple[int, ...] | None) -> OwnStep:
    names = state_names(module)
    if names:
        return CallStep(potential_first(names, -1), grades(module), names)
    names = () if shape is None else _changed_by(where, module, shape)
    return AttributeStep(potential_first(names, -1), grades(module))


def _changed_by(where: str, module: Any, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the attributes that a class without states in its call keeps its states in."""
    own: Any = twin(module)
    before = vars(own) | own._buffers
    held = (v for v in before.values() if isinstance(v, Tensor) and v.ndim and tuple(v.shape[1:]) == shape)
    like = next(held, module.threshold.new_zeros((2, *shape)))  # of a run before, if there was one
    try:
        with torch.no_grad():
            own.forward(torch.zeros_like(like))
    except Exception as error:
        raise UnsupportedModelError(
            f"{where} cannot be run event by event: {step_fails(module, shape, error)}"
        ) from error
    after = vars(own) | own._buffers
    return tuple(
        name
        for name, value in after.items()
        if isinstance(value, Tensor) and value.shape == like.shape and value is not before.get(name)
    )


def copied(module: Any, charging: bool) -> Any:
    """Return a copy without what the graph does in its place: recurrent synapses, a factor on its spikes."""
    own: Any = twin(module)
    own.init_hidden = False
    for name in state_names(module):
        if own._buffers.get(name) is not None:
            own._buffers[name] = own._buffers[name].new_zeros(0)
    if "graded_spikes_factor" in {**own._parameters, **own._buffers}:
        own._parameters.pop("graded_spikes_factor", None)
        own._buffers["graded_spikes_factor"] = torch.ones_like(module.graded_spikes_factor)
    if own._modules.pop("recurrent", None) is not None:
        own.__dict__["recurrent"] = torch.zeros_like
    if charging:
        own.state_quant = False
    return own


@dataclass(frozen=True)
class SnnTorchStep(OwnStep):
    """A step of a class of this library.

    Attributes:
        graded: whether the graph has a layer for the factor on its spikes.
    """

    graded: bool
    surrogate = "spike_grad"

    def start(self, module: nn.Module) -> None:
        if not self.graded:
            check_ungraded(module)

    def rest(self, own: Any, like: Tensor) -> States:
        return tuple(torch.zeros_like(like) for _ in self.names)

    def threshold(self, own: Any, like: Tensor) -> Any:
        return getattr(own, "threshold", 0.0)


@dataclass(frozen=True)
class CallStep(SnnTorchStep):
    """`forward(input, *states)`, which returns the spikes and the states.

    Attributes:
        order: the states' in the call. A first one "spk" is the spikes.
    """

    order: tuple[str, ...]

    def copy(self, module: nn.Module, charging: bool = False) -> nn.Module:
        return copied(module, charging)

    def starts(self, own: Any) -> bool:
        parameters = inspect.signature(type(own).forward).parameters
        return all(parameters[name].default is None for name in self.order)

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        if states is None:
            result = own.forward(current)  # where `copied` has emptied the buffers
        else:
            given = dict(zip(self.names, states, strict=True))
            result = own.forward(current, *(given[name] for name in self.order))
        if not isinstance(result, tuple) or len(result) < 2:
            raise TypeError(f"it takes the states {', '.join(self.order)} but does not return them")
        flat = [part for value in result for part in (value if isinstance(value, tuple) else (value,))]
        after = dict(zip(self.order, flat if self.order[0] == "spk" else flat[1:], strict=True))
        return flat[0], tuple(after[name] for name in self.names)


@dataclass(frozen=True)
class AttributeStep(SnnTorchStep):
    """`forward(input)` of a class that keeps its states in attributes."""

    def copy(self, module: nn.Module, charging: bool = False) -> nn.Module:
        own = copied(module, charging)
        own.init_hidden = module.init_hidden
        return own

    def starts(self, own: Any) -> bool:
        held = [getattr(own, name, None) for name in self.names]
        return not any(isinstance(value, Tensor) and value.numel() for value in held)  # it has not run yet

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        for name, state in zip(self.names, states or (), strict=states is not None):
            (own._buffers if name in own._buffers else own.__dict__)[name] = state
        result = own.forward(current)
        sent = result[0] if isinstance(result, tuple) else result
        return sent, tuple(getattr(own, name) for name in self.names)
