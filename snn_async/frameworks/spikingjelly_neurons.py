"""SpikingJelly 2.0 neurons as neuron models: which class is which."""

import math
from dataclasses import replace
from typing import Any

import torch
from spikingjelly.activation_based import base, neuron
from torch import Tensor

from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import (
    check_sizes,
    firing,
    potential_first,
    replaced_methods,
    rules_of,
    scalar,
)
from snn_async.frameworks.refractory_options import options_of
from snn_async.frameworks.spikingjelly_steps import (
    ChargeStep,
    DrivenStep,
    FrozenStep,
    LateralStep,
    MemoryStep,
    NoisyStep,
    ReadoutStep,
    check_noise,
)
from snn_async.neurons import LinearNeuron, LinearParameters, Neuron
from snn_async.neurons.analog import AnalogNeuron
from snn_async.neurons.bounded import BoundedNeuron, BoundedParameters, for_inference
from snn_async.neurons.gated import GatedNeuron, GatedParameters
from snn_async.neurons.klif import KLIFNeuron, KLIFParameters
from snn_async.neurons.own_step import OwnStep, twin
from snn_async.neurons.probed import ProbedNeuron
from snn_async.neurons.probing import probed_neuron, shape_for
from snn_async.neurons.surrogates import Counted, Mapped, Signed, TrainingOnly
from snn_async.neurons.ternary import HardTernaryNeuron
from snn_async.neurons.window import WindowNeuron, WindowParameters

READOUTS = (neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode)
NON_SPIKING = (neuron.NonSpikingBaseNode, neuron.NoisyNonSpikingBaseNode)
NOISY = (neuron.NoisyBaseNode, neuron.NoisyNonSpikingBaseNode)
IN_SEQUENCE = (neuron.NoisyILCBaseNode, neuron.NoisyBaseNode, neuron.ILCBaseNode)  # subclasses first
TERNARY = (neuron.TernaryIFNode, neuron.TernaryLIFNode)
ONLINE = (neuron.OTTTLIFNode, neuron.SLTTLIFNode)
PARALLEL = (neuron.SlidingPSN, neuron.MaskedPSN)
FIXED = (*TERNARY, neuron.ILIFNode, neuron.KLIFNode, neuron.LIAFNode)  # whose threshold is a number
WRITTEN_OUT = (  # subclasses first
    *(neuron.ILIFNode, neuron.LIAFNode, *ONLINE, *TERNARY, neuron.KLIFNode),
    *(neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.HalfThresholdIFNode),
    *(neuron.SimpleIFNode, neuron.SimpleLIFNode),
)
SILENT: dict[str, Any] = dict(surrogate=torch.zeros_like, inclusive=False, spiking=False)
_UNREACHED = 1e30  # a readout's threshold; finite, so that 0 * threshold stays 0


def make(where: str, path: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    """Return the neuron model of a module of a class that is not refused."""
    if rules_of(module, READOUTS) is not None:
        return _readout(path, module)
    if isinstance(module, NON_SPIKING):
        return _probed_readout(where, module, shape)
    if getattr(module, "_neuron_precision", None) is not None:
        raise UnsupportedModelError(
            f"{where}: its neuron precision {module._neuron_precision} is not supported; convert the "
            "whole model's dtype instead"
        )
    if rules_of(module, (neuron.GatedLIFNode,)) is not None:
        return _gated(where, module, shape)
    if rules_of(module, PARALLEL) is not None:
        return _window(where, module)
    if rules_of(module, (neuron.STBIFNode,)) is not None:
        return _bounded(path, module, shape)
    _check_values(where, path, module, shape)
    kind = rules_of(module, WRITTEN_OUT)
    if kind is neuron.LIAFNode:
        return _linear(where, path, module, kind, shape)
    graded = not firing(where, getattr(module, "surrogate_function", None))["binary"]
    if kind is None or (graded and module.v_reset is not None):  # several spikes at once are reset as one
        return _probed(where, module, shape)
    if kind not in FIXED and isinstance(module.v_reset, Tensor):
        return _probed(where, module, shape)
    return _linear(where, path, module, kind, shape)


def _check_values(where: str, path: str, module: Any, shape: tuple[int, ...] | None) -> None:
    """Raise UnsupportedModelError unless threshold and reset are values that neurons may have."""
    for name in ("v_threshold", "v_reset"):
        value = getattr(module, name, None)
        if value is None and (name == "v_reset" or not hasattr(module, name)):
            continue
        if not isinstance(value, int | float | Tensor):
            raise UnsupportedModelError(f"{where}: its {name} is {value!r}; give a number")
        if name == "v_threshold" and _never_spikes(module):
            continue
        per_channel = isinstance(module, neuron.ActivationAwareIFNode | neuron.MPBNBaseNode)
        check_sizes(path, module, None if per_channel else shape, **{name: value})


def _never_spikes(module: Any) -> bool:
    """Return whether a node is a readout, or one of a plain class with an infinite threshold."""
    if isinstance(module, READOUTS):
        return True
    plain = type(module) in (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode)
    threshold = module.v_threshold
    return (
        plain and module.v_reset is not None and not isinstance(threshold, Tensor) and threshold == math.inf
    )


# -- written out ---------------------------------------------------------------------------------------


def _linear(where: str, path: str, module: Any, kind: type, shape: tuple[int, ...] | None) -> Neuron:
    for name in ("v_reset", "v_threshold"):
        if kind in FIXED and isinstance(getattr(module, name), Tensor):
            raise UnsupportedModelError(
                f"{where}: its {name} is a tensor, which is not followed; give a float"
            )
    start = module.get_reset_value("v")
    if not isinstance(start, int | float):
        raise UnsupportedModelError(f"{where}: its reset value of v is no number ({start!r}); give a float")
    hard = module.v_reset is not None
    check_sizes(
        path, module, shape, **{k: getattr(module, k) for k in ("w", "tau", "k") if hasattr(module, k)}
    )
    surrogate = module.surrogate_function
    if kind in ONLINE:
        surrogate = TrainingOnly(surrogate, module)
    members: dict[str, Any] = dict(
        module=module,
        parameters=_read,
        surrogate=surrogate,
        reset="value" if hard else "subtract",
        reset_value=float(module.v_reset) if hard else 0.0,
        detach_reset=bool(module.detach_reset),
        resting=float(start),
        **options_of(module),
    )
    if kind is neuron.LIAFNode:
        return AnalogNeuron(**members, inclusive=False)
    if kind is neuron.ILIFNode:
        members |= {"surrogate": Counted(surrogate, float(module.v_threshold))}
        return LinearNeuron(**members, inclusive=False, binary=False)
    if _never_spikes(module):
        return LinearNeuron(**members | SILENT | {"reset": "none"})
    members |= firing(where, module.surrogate_function)
    if kind in TERNARY:
        members |= {"surrogate": Signed(surrogate, float(module.v_threshold)), "binary": False}
        return HardTernaryNeuron(**members | {"reset": "none"}) if hard else LinearNeuron(**members)
    if kind is neuron.KLIFNode:
        return _klif(where, module, members)
    return LinearNeuron(**members)


def _klif(where: str, module: Any, members: dict[str, Any]) -> Neuron:
    threshold = float(module.v_threshold)
    if threshold <= 0 or not members["binary"]:
        raise UnsupportedModelError(
            f"{where}: it compares a rectified potential, which is never below a threshold of {threshold:g}; "
            "give it one above 0, and a surrogate function with spikes of 0 or 1"
        )
    late = module.scale_reset and module.v_reset is not None  # set to a value after the potential was scaled
    members |= {"surrogate": Mapped(module.surrogate_function, torch.relu, threshold)}
    members |= {"reset": "none", "repeats": False} if late else {}
    return KLIFNeuron(**members | {"parameters": _read_klif}, scale_reset=bool(module.scale_reset))


def _gated(where: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    if shape is not None and len(shape) != 3:
        raise UnsupportedModelError(
            f"{where}: SpikingJelly computes it for samples (C, H, W) only, but its neurons are of shape {shape}"
        )
    return GatedNeuron(**_without_reset(where, module), parameters=_read_gated)


def _without_reset(where: str, module: Any) -> dict[str, Any]:
    surrogate = module.surrogate_function
    members = dict(module=module, surrogate=surrogate, reset="none")
    return members | firing(where, surrogate) | options_of(module)


def _read_gated(module: Any) -> tuple[Tensor, ...]:
    single = (getattr(module, name) for name in GatedParameters._fields[:-1])
    conduct = module.conduct.sigmoid()
    return *(value.sigmoid().reshape(-1, 1, 1) for value in single), conduct.reshape(len(conduct), -1, 1, 1)


def _bounded(path: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    check_sizes(path, module, shape, **_read_bounded(module)._asdict())
    return BoundedNeuron(
        module=module,
        parameters=_read_bounded,
        surrogate=for_inference,
        inclusive=True,
        binary=False,
        reset="none",
        repeats=False,
        **options_of(module),
    )


def _read_bounded(module: Any) -> BoundedParameters:
    return BoundedParameters(module.q_threshold, module.pos_max, module.neg_min)


def _read_klif(module: Any) -> KLIFParameters:
    return KLIFParameters(*_read(module), module.k)


def _window(where: str, module: Any) -> Neuron:
    _check_mask(where, module)
    return WindowNeuron(**_without_reset(where, module), parameters=_read_window)


def _check_mask(where: str, module: Any) -> None:
    if getattr(module, "lambda_", 1) < 1:
        raise UnsupportedModelError(
            f"{where}: lambda_ = {float(module.lambda_):g} lets later timesteps in; set it to 1"
        )


def _read_window(module: Any) -> WindowParameters:
    if isinstance(module, neuron.SlidingPSN):
        return WindowParameters(module.weight.flip(0)[None, :, None], module.bias.reshape(1, 1))
    _check_mask("spikingjelly.MaskedPSN", module)
    steps = torch.arange(module.T, device=module.weight.device)
    ago = steps[:, None] - steps[: module.k]
    weight = module.masked_weight().gather(1, ago.clamp(min=0))
    return WindowParameters(torch.where(ago >= 0, weight, 0.0)[..., None], module.bias)


def _read(module: Any) -> LinearParameters:
    """h = v - rate (v - v_reset) + x, or rate x with decay_input; the rate of an IFNode is 0."""
    if hasattr(module, "w"):
        rate = module.w.sigmoid()
    elif hasattr(module, "tau"):
        rate = 1 / scalar(module.tau)
    else:
        rate = torch.zeros((), dtype=torch.float64)
    decays = isinstance(module, neuron.NonSpikingLIFNode) or getattr(module, "decay_input", False)
    gain = rate if decays else torch.ones_like(rate).detach()
    towards = float(getattr(module, "v_reset", None) or 0.0)
    threshold = scalar(_UNREACHED if _never_spikes(module) else module.v_threshold)
    return LinearParameters(leak=1 - rate, gain=gain, offset=rate * towards, threshold=threshold)


def _readout(path: str, module: Any) -> Neuron:
    if hasattr(module, "tau"):
        check_sizes(path, module, None, tau=module.tau)
    return LinearNeuron(module=module, parameters=_read, reset="none", **SILENT)


# -- by its own step -----------------------------------------------------------------------------------


def _probed(where: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    surrogate = module.surrogate_function
    fires = firing(where, surrogate)
    if rules_of(module, (neuron.ComplementaryLIFNode,)) is not None:
        surrogate = TrainingOnly(surrogate, module)
    step, shape = _step_of(where, module), shape_for(module, shape)
    members = {"surrogate": surrogate} | fires | options_of(module)
    model = probed_neuron(where, module, step, shape, not fires["binary"], **members)
    if shape is not None and isinstance(step, MemoryStep):
        _check_multi_step(where, module, shape)
    return _driven(where, model, shape)


def _probed_readout(where: str, module: Any, shape: tuple[int, ...] | None) -> Neuron:
    kind = next(cls for cls in NON_SPIKING if isinstance(module, cls))
    if "forward" in replaced_methods(module, kind):
        raise UnsupportedModelError(f"{where}: its forward is not {kind.__name__}'s; leave it as it is")
    model = probed_neuron(where, module, ReadoutStep(("v",)), shape_for(module, shape), False, **SILENT)
    return _driven(where, model, shape)


def _driven(where: str, model: ProbedNeuron, shape: tuple[int, ...] | None) -> Neuron:
    """Return the model with the currents that a class gives itself: they are known when a timestep begins."""
    module: Any = model.module
    neurons = getattr(module, "num_node", getattr(module, "out_pop_dim", None))
    if isinstance(module, neuron.ILCBaseNode | neuron.NoisyILCBaseNode):
        model = replace(model, step=LateralStep((*model.step.names, "lateral"), model.step))
    if isinstance(module, NOISY):
        check_noise(where, module)
        model = replace(model, step=NoisyStep((*model.step.names, "t"), model.step))
    if isinstance(model.step, DrivenStep) and shape not in (None, (neurons,)):
        raise UnsupportedModelError(
            f"{where}: it was constructed for {neurons} neurons, but its population has the shape {shape}"
        )
    return model


def _step_of(where: str, module: Any) -> OwnStep:
    kind = next((cls for cls in IN_SEQUENCE if isinstance(module, cls)), None)
    if kind is not None:
        changed = {"forward", "_after_spike"} & {*replaced_methods(module, kind)}
        if changed:
            raise UnsupportedModelError(
                f"{where}: its {', '.join(sorted(changed))} is not {kind.__name__}'s; leave it as it is"
            )
        own: Any = twin(module)
        before = dict(vars(own))
        own.init_tensor(torch.zeros(1))
        return ChargeStep(potential_first([k for k, v in vars(own).items() if v is not before.get(k)]))
    if not isinstance(module, base.MemoryModule):
        raise UnsupportedModelError(f"{where}: it is no MemoryModule, so its states are unknown")
    names = potential_first(list(module._memories))
    return FrozenStep(names) if isinstance(module, neuron.MPBNBaseNode) else MemoryStep(names)


def _check_multi_step(where: str, module: Any, shape: tuple[int, ...]) -> None:
    """Raise UnsupportedModelError if a class of one's own does something else with all timesteps than with each."""
    own = [cls for cls in type(module).__mro__ if cls.__module__.split(".")[0] != "spikingjelly"]
    if module.step_mode == "s" or not own:
        return
    frames = torch.randn((3, 2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = frames.to(next((t.device for t in (*module.parameters(), *module.buffers())), "cpu"))
    runs: list[Any] = [twin(module), twin(module)]
    for run in runs:
        run._memories.update(run._memories_rv)
        run._step_mode = "s" if run is runs[1] else "m"
    with torch.no_grad():
        together, each = runs[0].forward(frames), torch.stack([runs[1].forward(frame) for frame in frames])
    if not torch.allclose(together.double(), each.double()):
        raise UnsupportedModelError(
            f"{where} cannot be run event by event: its multi_step_forward is not its single step, repeated"
        )
