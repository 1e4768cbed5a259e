"""Any neuron whose charge is affine in its current, by its class's own step (docs/design.md, section 4).

The step is run on a copy of the module whose surrogate function is replaced (`snn_async.neurons.own_step`):

    begin   by a recorder: what it is asked, the distance r to the threshold, at currents 0 and 1 gives
            base = r(0) + threshold, gain = r(1) - r(0), differentiable in states and parameters; the threshold is what
            the class calls so, or, where that moves with a state, the potential that it keeps without a spike, less r
    end     by the spikes that the events gave, at the current that arrived: yields the states after the timestep,
            through the class's own reset, adaptation and detaching

`snn_async.neurons.probing` proves that this is the class: affine, elementwise, nothing else kept, and finds out what
its resets are. So this covers second states (synaptic currents, adaptation, resonance), nonlinear leaks and classes of
one's own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, from_units, to_units
from snn_async.neurons.base import Charge, Neuron, Outcome, Refractory, State
from snn_async.neurons.own_step import Done, OwnStep, States, spread
from snn_async.neurons.written import span

if TYPE_CHECKING:
    from snn_async.graph import Population

# What one call of the surrogate function asks: whether the neuron spikes now ("fires"); whether it did in the last
# timestep, for a delayed reset that acts once per spike ("fired") or once ("fired once"); or whether the states that it
# starts with are above threshold ("above").
Call = Literal["fires", "fired", "fired once", "above"]


class Live(NamedTuple):
    """Copies of a population's module, one to charge and one to end a timestep with, and how its neurons lie."""

    charging: nn.Module
    ending: nn.Module
    shape: tuple[int, ...]
    grid: Grid


@dataclass(frozen=True)
class ProbedNeuron(Neuron):
    """A neuron that begins and ends its timesteps with its class's own step.

    State: the class's own in the order of `step.names`, then last timestep's spikes if `calls` ask for them.

    Attributes:
        step: how the class is run.
        calls: what the calls of the surrogate function in one step ask, in order.
        moving_threshold: the threshold is the potential that is kept without a spike, less what is asked.
        reset_holds: a neuron that spiked ends its timestep at `reset_value`; what arrives after its last spike acts on
            its other states alone. So a hard reset beside a state that currents reach does as it does with the barrier.
        own_refractory: `default_refractory`.
    """

    step: OwnStep = None  # type: ignore[assignment]
    calls: tuple[Call, ...] = ()
    moving_threshold: bool = False
    reset_holds: bool = False
    own_refractory: Refractory = "integrate"

    @property
    def default_refractory(self) -> Refractory:
        """ "discard" if nothing that is kept after a spike depends on the current, else "integrate"."""
        return self.own_refractory

    @property
    def keeps_spikes(self) -> bool:
        """Whether last timestep's spikes are part of the state."""
        return "fired" in self.calls or "fired once" in self.calls

    def read(self, population: "Population", like: Tensor) -> Live:
        module, step = self.module, self.step
        step.start(module)
        live = Live(step.copy(module, charging=True), step.copy(module), population.shape, population.grid)
        with torch.no_grad():
            rest = self.rest(live, 1, like)
            charge = self.begin(live, rest)
            zero = torch.zeros_like(rest[0])
            after = self.end(live, rest, Outcome(zero, zero, charge.base.expand_as(zero)))
        if not all(bool(value.isfinite().all()) for value in (*charge, *after)):
            raise UnsupportedModelError(f"{population.name!r}: {not_finite(module)}; restore finite values")
        return live

    def rest(self, live: Live, samples: int, like: Tensor) -> State:
        frame = like.new_zeros((samples, *live.shape))
        states = self.step.rest(live.ending, frame)
        return self._units(live, self._with_fired(live, states), like)

    def started(self, live: Live, given: State, rest: State) -> State:
        whole = super().started(live, given, rest)
        states, _ = self._framed(live, whole)
        return self._units(live, self._with_fired(live, states), rest[0]) if given else rest

    def _with_fired(self, live: Live, states: States) -> States:
        """Return states with last timestep's spikes, if they are kept.

        snnTorch derives a delayed reset from the stored potential, which may be above a threshold from the start.
        """
        if not self.keeps_spikes:
            return states
        fired = nothing = torch.zeros_like(states[0])
        asked = self._run(live.ending, nothing, states, nothing, nothing).asked
        for call, x in zip(self.calls, asked, strict=True):
            if call in ("fired", "fired once"):
                fired = self.surrogate(x).detach()
        return (*states, fired)

    def begin(self, live: Live, state: State) -> Charge:
        states, fired = self._framed(live, state)
        silent = torch.zeros_like(states[0])
        without = self._run(live.charging, silent, states, fired, silent)
        at_zero = self._excess(without)
        if self.moving_threshold:
            threshold = without.states[0] - at_zero
        else:
            threshold = spread(self.step.threshold(live.charging, silent), silent)
        with_one = self._run(live.charging, torch.ones_like(silent), states, fired, silent)
        gain = self._excess(with_one) - at_zero
        return Charge(*self._units(live, (at_zero + threshold, gain, threshold), state[0]))

    def end(self, live: Live, state: State, outcome: Outcome) -> State:
        states, fired = self._framed(live, state)
        (current, spikes), _ = self._framed(live, (outcome.current, outcome.spikes), keeps=False)
        done = self._run(live.ending, current, states, fired, spikes)
        after = self._units(live, done.states, outcome.potential)
        if self.reset_holds:
            u = self._excess(done) + spread(self.step.threshold(live.ending, current), current)
            (u,) = self._units(live, (u,), outcome.potential)
            spiked = _once(outcome.spikes.detach() if self.detach_reset else outcome.spikes)
            after = (u + spiked * (self.reset_value - u), *after[1:])
        elif self.reset == "value":  # which may have been followed by further currents
            after = (outcome.potential, *after[1:])
        return (*after, outcome.spikes) if self.keeps_spikes else after

    def _run(
        self, own: nn.Module, current: Tensor, states: States, fired: Tensor | None, spikes: Tensor
    ) -> Done:
        def answer(k: int, x: Tensor) -> Tensor:
            call = self.calls[k] if k < len(self.calls) else None
            if call == "above":
                return self.surrogate(x)
            if call == "fires":
                return spikes
            return fired if call == "fired" else _once(fired)  # type: ignore[return-value, arg-type]

        done = self.step.run(own, current, states, answer)
        assert len(done.asked) == len(self.calls)  # `read_own_step` showed that
        return done

    def _excess(self, done: Done) -> Tensor:
        return done.asked[self.calls.index("fires")]

    def _framed(self, live: Live, state: State, keeps: bool | None = None) -> tuple[States, Tensor | None]:
        """Return (B, *shape) states, and last timestep's spikes."""
        frames = tuple(from_units(value, live.grid).unflatten(1, live.shape) for value in state)
        keeps = self.keeps_spikes if keeps is None else keeps
        return (frames[:-1], frames[-1]) if keeps else (frames, None)

    def _units(self, live: Live, frames: States, like: Tensor) -> State:
        return tuple(to_units(frame.flatten(1), live.grid).to(like) for frame in frames)

    def describe(self) -> str:
        resets = {
            "subtract": "reset by subtraction at once",
            "value": f"reset to {self.reset_value:g} at once",
            "none": "its own reset",
        }
        if "fired" in self.calls or "fired once" in self.calls:
            resets["none"] = "reset at the next timestep"
        fires = "at" if self.inclusive else "above"
        parts = [f"{type(self.module).__name__}'s own step", f"states {', '.join(self.step.names)}"]
        values = _values(self.module, self.step.names).items()
        sends = f"fires {fires} its threshold" if self.binary else "sends values"
        return ", ".join([*parts, *(f"{name} {span(v)}" for name, v in values), sends, resets[self.reset]])


def _once(spikes: Tensor) -> Tensor:
    """Return whether there were spikes, with their gradient where there was one (where `clamp` has none)."""
    return torch.where(spikes > 1, 1.0, spikes)


def _values(module: nn.Module, states: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the values that a module holds by name, without its states."""
    held = (*module.named_parameters(), *module.named_buffers())
    found = {name: tensor.detach() for name, tensor in held if tensor.is_floating_point() and tensor.numel()}
    plain = {k: torch.tensor(v) for k, v in vars(module).items() if isinstance(v, float) and k[0] != "_"}
    return {name: value for name, value in (found | plain).items() if name not in states}


def not_finite(module: nn.Module) -> str:
    """Return which value of a module whose step gives values that are NaN or infinite is so itself."""
    for name, value in _values(module, ()).items():
        if not bool(value.isfinite().all()):
            return f"{name} of its {type(module).__name__} is NaN or infinite"
    return f"its {type(module).__name__} begins or ends with values that are NaN or infinite"
