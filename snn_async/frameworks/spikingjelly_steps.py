"""How the own step of a SpikingJelly 2.0 class is run (`snn_async.neurons.own_step`)."""

from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.neurons.own_step import OwnStep, States, spread, twin


@dataclass(frozen=True)
class SpikingJellyStep(OwnStep):
    """A step of a class of this library."""

    surrogate = "surrogate_function"
    changing = frozenset({"noise_step"})

    def threshold(self, own: Any, like: Tensor) -> Any:
        value = getattr(own, "v_threshold", 0.0)
        if isinstance(own, neuron.ActivationAwareIFNode):
            return own._broadcast_parameter(value, like, "v_threshold")
        return value


@dataclass(frozen=True)
class MemoryStep(SpikingJellyStep):
    """`forward` of a MemoryModule in single-step mode; its memories are the states."""

    def copy(self, module: nn.Module, charging: bool = False) -> nn.Module:
        own: Any = twin(module)
        own.__dict__["_step_mode"] = "s"
        own.__dict__["_store_v_seq"] = False
        return own

    def rest(self, own: Any, like: Tensor) -> States:
        values = own.materialize_states((like,), tuple(own._memories_rv[name] for name in own._memories), "s")
        found = dict(zip(own._memories, values, strict=True))
        return tuple(spread(found[name], like) for name in self.names)

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        own._memories.update(zip(self.names, states or (), strict=True))
        sent = own.forward(current)
        if not isinstance(sent, Tensor):
            raise TypeError("it returns more than its spikes")
        return sent, tuple(own._memories[name] for name in self.names)


@dataclass(frozen=True)
class FrozenStep(MemoryStep):
    """Of a class that normalizes its potential: with its running statistics, as every BatchNorm (docs/design.md, 7)."""

    def copy(self, module: nn.Module, charging: bool = False) -> nn.Module:
        return super().copy(module, charging).eval()

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        norm = own.vbn  # which takes no other precision than its own
        own._modules["vbn"] = alike = twin(norm)
        tables: Any = (alike._parameters, alike._buffers)
        for table in tables:
            table.update(
                {name: None if value is None else value.to(current) for name, value in table.items()}
            )
        done = super().call(own, current, states)
        own._modules["vbn"] = norm
        return done

    def threshold(self, own: Any, like: Tensor) -> Any:
        value = own.a.exp() if own.learnable_vth else own.v_threshold
        if own.fold_bn:
            value = (value - own.beta) * (own.sigma2 + own.eps).sqrt() / own.gamma + own.mu
        return value.reshape(-1, *[1] * (like.ndim - 2)) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class ChargeStep(SpikingJellyStep):
    """`neuronal_charge`, `neuronal_fire`, `neuronal_reset` of a class that holds its states as attributes."""

    def rest(self, own: Any, like: Tensor) -> States:
        own.init_tensor(like)
        return tuple(getattr(own, name) for name in self.names)

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        for name, state in zip(self.names, states or (), strict=True):
            setattr(own, name, state)
        own.neuronal_charge(current)
        spikes = own.neuronal_fire()
        own.neuronal_reset(spikes)
        return spikes, tuple(getattr(own, name) for name in self.names)


@dataclass(frozen=True)
class ReadoutStep(SpikingJellyStep):
    """`neuronal_charge` of a class that never spikes; its potential v stands for what it would be asked."""

    def rest(self, own: Any, like: Tensor) -> States:
        return (torch.zeros_like(like),)

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        (own.v,) = states or ()
        own.neuronal_charge(current)
        return own.surrogate_function(own.v), (own.v,)


@dataclass(frozen=True)
class DrivenStep(SpikingJellyStep):
    """A step of a class that gives itself a current, which is known when the timestep begins.

    Attributes:
        inner: the step without it; `names` are its states and one more.
    """

    inner: OwnStep

    def rest(self, own: Any, like: Tensor) -> States:
        return *self.inner.rest(own, like), torch.zeros_like(like)

    def threshold(self, own: Any, like: Tensor) -> Any:
        return self.inner.threshold(own, like)


@dataclass(frozen=True)
class LateralStep(DrivenStep):
    """What last timestep's spikes send within the layer through `conn`, the last state."""

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        *held, lateral = states or ()
        sent, after = self.inner.call(own, current + lateral, tuple(held))
        through = own.conn(sent.reshape(len(sent), own.act_dim, own.dec_pop_dim))
        return sent, (*after, through.reshape(lateral.shape))


@dataclass(frozen=True)
class NoisyStep(DrivenStep):
    """The noise that `reset_noise` drew, a row for each call of the class and timestep; the last state is the timestep.

    After T timesteps it is that of the call's first one again, as in another call.
    """

    def start(self, module: nn.Module) -> None:
        noisy: Any = module
        if noisy.is_training:
            where = f"spikingjelly.{type(noisy).__name__}"
            check_noise(where, noisy)
            drawn = _noise(noisy)[0]
            if drawn is None or noisy.noise_step + 1 >= len(drawn):
                lacks = "none is drawn" if drawn is None else f"that of {len(drawn)} runs is used up"
                raise UnsupportedModelError(
                    f"{where}: with is_training=True every run takes other noise, but {lacks}; call reset_noise(runs)"
                )
            noisy.noise_step += 1

    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        *held, t = states or ()
        if own.is_training:
            drawn, _, size = _noise(own)
            rows = drawn[own.noise_step].to(t.device)  # type: ignore[index]
            current = current + size * rows.gather(0, t.long() % len(rows))
        sent, after = self.inner.call(own, current, tuple(held))
        return sent, (*after, t + 1)


def check_noise(where: str, module: Any) -> None:
    """Raise UnsupportedModelError for noise that is no current of single timesteps and samples."""
    if module.is_training and getattr(module, "sigma_s", 0.0):
        raise UnsupportedModelError(
            f"{where}: with is_training=True it adds noise to its output, so that silent neurons send values too; "
            "set sigma_s = 0.0, which leaves the noise of its currents, or is_training = False"
        )
    if module.is_training and _noise(module)[1] is not None:
        raise UnsupportedModelError(
            f"{where}: noise from load_colored_noise belongs to places in one batch, not to samples; "
            "call cancel_load()"
        )


def _noise(module: Any) -> tuple[Tensor | None, Tensor | None, Any]:
    """Return the noise of a class's currents, (calls, T, neurons), what was loaded in its place, and its size."""
    if isinstance(module, neuron.NoisyBaseNode):
        return getattr(module, "eps_v_seq", None), module.cn_v, module.sigma_v
    return getattr(module, "eps_seq", None), module.cn, module.sigma
