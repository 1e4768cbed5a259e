"""The proof that a class can be run by its own step, and what its resets are; done when a graph is built.

Everything is shown at random states and currents, in float64, on copies of the module.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.neurons.own_step import Done, OwnStep, States, spread, twin
from snn_async.neurons.probed import Call, ProbedNeuron, not_finite

FEWEST = (
    3,
    24,
)  # samples and neurons in all, so that random bits tell calls apart where a sample is one neuron


class Reading(NamedTuple):
    """What was found out; members are those of `ProbedNeuron`."""

    calls: tuple[Call, ...]
    reset: str
    reset_value: float
    detach_reset: bool
    repeats: bool
    moving_threshold: bool
    reset_holds: bool
    own_refractory: str


def probed_neuron(
    where: str, module: nn.Module, step: OwnStep, shape: tuple[int, ...] | None, graded: bool, **members: Any
) -> ProbedNeuron:
    """Return the neuron model of a class by its own step.

    Args:
        where: how messages name the module.
        shape: of the neurons; None if that is not known yet, where nothing is shown.
        graded: whether spikes may have other values than 0 and 1.
        members: those of `ProbedNeuron` that are not found out.

    Raises:
        UnsupportedModelError: for a class that cannot be run by its own step, with what was seen.
    """
    read = {} if shape is None else read_own_step(where, module, step, shape, graded)._asdict()
    found: dict[str, Any] = {"module": module, "step": step, "reset": "none"} | members | read
    return ProbedNeuron(**found)


def step_fails(module: nn.Module, shape: tuple[int, ...], error: Exception) -> str:
    """Return what to say of a class whose own step fails for neurons of a shape."""
    said = (str(error).splitlines() or [""])[0]
    left = [k for k, v in vars(module).items() if isinstance(v, Tensor) and v.ndim and v.shape[1:] != shape]
    advice = f"; it holds {', '.join(left)}: if that is of a run of other neurons, reset it" if left else ""
    return f"its own step fails ({type(error).__name__}: {said}){advice}"


def shape_for(own: nn.Module, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the shape to probe with: any, where neurons are alike, as long as theirs is not known."""
    return (4,) if shape is None and all(value.numel() <= 1 for value in _tensors(own)) else shape


def read_own_step(
    where: str, module: nn.Module, step: OwnStep, shape: tuple[int, ...], graded: bool
) -> Reading:
    """Return how a class works; arguments and errors as for `probed_neuron`."""
    key = (step, shape, graded, _settings(module, step.changing))
    if _READ.get(module, (None,))[0] != key:
        with torch.no_grad():
            probes = [_Probe(where, module, step, shape, graded)]
            reading = probes[0].read()
            held, few = _tensors(module), shape
            if all(value.numel() <= 1 for value in held):  # neurons are alike: some will do
                few = tuple(min(side, 4) for side in shape)
            for amount in (0.01, -0.01) if held else ():  # it has to hold for any values of the parameters
                probe = _Probe(where, moved(module, amount), step, few, graded, moved=True)
                if probe.runs():
                    reading = probe.common(reading, probe.read())
                    probes.append(probe)
            for probe in probes:
                probe.check_gradients()
            _READ[module] = key, reading
    return _READ[module][1]


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return what `moved` gives other values."""
    tables = (t for own in module.modules() for t in (vars(own), own._parameters, own._buffers))
    held = (value for table in tables for value in table.values() if isinstance(value, Tensor))
    return [value for value in held if value.is_floating_point()]


def moved(module: nn.Module, amount: float, generator: torch.Generator | None = None) -> nn.Module:
    """Return a copy of a module of which every parameter, buffer and tensor has other values."""
    own = twin(module)
    generator = torch.Generator().manual_seed(1) if generator is None else generator

    def change(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value)
        new = value.detach() + amount * (1 + value.detach().abs()) * (0.5 + drawn)
        return nn.Parameter(new) if isinstance(value, nn.Parameter) else new

    for table in (own.__dict__, own._parameters, own._buffers):
        table.update({name: change(value) for name, value in table.items() if isinstance(value, Tensor)})
    for name, child in own._modules.items():
        own._modules[name] = None if child is None else moved(child, amount, generator)
    return own


# Models are compared with what was read of them whenever they may have changed, as they do in each layered run.
_READ: WeakKeyDictionary[nn.Module, tuple[Any, Reading]] = WeakKeyDictionary()


def _settings(module: nn.Module, changing: frozenset[str]) -> tuple[Any, ...]:
    """Return what may change how a class works: its settings, not the values of its parameters or states."""
    states = Tensor | dict | list | set | None  # or what may hold them
    own = {name: value for name, value in vars(module).items() if name not in changing}
    held = {name: value for name, value in own.items() if not isinstance(value, states)}
    plain = bool | int | float | str
    values = ((name, value if isinstance(value, plain) else id(value)) for name, value in held.items())
    tensors = ((name, t.dtype) for name, t in (*module.named_parameters(), *module.named_buffers()))
    return (type(module), *values, *map(id, module.children()), *tensors)


_OWN_RESET: dict[str, Any] = dict(
    reset="none",
    reset_value=0.0,
    detach_reset=False,
    repeats=False,
    moving_threshold=False,
    reset_holds=False,
)


class _Probe:
    def __init__(
        self,
        where: str,
        module: nn.Module,
        step: OwnStep,
        shape: tuple[int, ...],
        graded: bool,
        moved: bool = False,
    ) -> None:
        self.where, self.module, self.step, self.graded, self.moved = where, module, step, graded, moved
        held = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
        device = held[0].device if held else torch.device("cpu")
        samples = max(FEWEST[0], FEWEST[1] // max(1, math.prod(shape)))
        self.zero = torch.zeros((samples, *shape), dtype=torch.float64, device=device)
        self.generator = torch.Generator().manual_seed(0)
        self.moving: list[bool] = []  # of every call, once `read`
        self.single = False  # whether the class computes in single precision
        rest = self._attempt(lambda: step.rest(step.copy(module), self.zero))
        self.rest = tuple(spread(state, self.zero) for state in rest)

    def read(self) -> Reading:
        charging = self.step.copy(self.module, charging=True)
        current, states = self.normal(2), self.states()
        moving = self._check_calls(charging, current, states)
        self._check_rest(current, len(moving))
        self._check_elementwise(charging, current, states)
        self._check_samples(charging, current, states)
        for _ in range(2):
            self._gain(charging, self.states(), moving)
        self.moving = moving
        return self._resets(self._calls(moving))

    def runs(self) -> bool:
        """Return whether the class runs at all with these parameters, and gives numbers."""
        try:
            own, (current, *states) = self.step.copy(self.module), (self.normal(2), *self.states())
            done = self.step.run(own, current, tuple(states), lambda k, x: (x > 0).to(self.zero))
        except Exception:  # values that the class itself does not take
            return False
        return all(bool(value.isfinite().all()) for value in (*done.asked, *done.states))

    def common(self, a: Reading, b: Reading) -> Reading:
        """Return what holds with the parameters of either reading; a reset that differs is the class's own."""
        if a.calls != b.calls:
            raise self._refused(
                "what its surrogate function is asked depends on the values of its parameters; ask the same always"
            )
        a = a._replace(
            detach_reset=a.detach_reset and b.detach_reset,
            own_refractory="discard" if a.own_refractory == b.own_refractory == "discard" else "integrate",
        )
        alike = all(
            getattr(a, name) == getattr(b, name)
            for name in ("reset", "repeats", "moving_threshold", "reset_holds")
        )
        if alike and self.close(a.reset_value, b.reset_value):
            return a
        return a._replace(**_OWN_RESET)

    # -- running ---------------------------------------------------------------------------------------

    def _attempt(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise self._refused(step_fails(self.module, tuple(self.zero.shape[1:]), error)) from error

    def run(
        self, own: nn.Module | None, current: Tensor, states: States | None, answers: list[Tensor]
    ) -> Done:
        """Run a copy, a fresh one if None; the last answer answers all further calls."""
        own = self.step.copy(self.module) if own is None else own
        given = None if states is None else tuple(state.clone() for state in states)
        arrives = current.clone()
        done = self._attempt(
            lambda: self.step.run(own, arrives, given, lambda k, _: answers[min(k, len(answers) - 1)])
        )
        if given is not None and not all(map(torch.equal, given, states)):  # type: ignore[arg-type]
            raise self._refused("it changes its state in place; make a new tensor instead")
        if not torch.equal(arrives, current):
            raise self._refused("it changes its current in place; make a new tensor instead")
        kept = len(done.states) == len(self.rest) and all(
            isinstance(state, Tensor) and state.shape == current.shape for state in done.states
        )
        if not isinstance(done.sent, Tensor) or done.sent.shape != current.shape or not kept:
            raise self._refused(
                f"its step does not give a spike and the states {', '.join(self.step.names)} for every neuron, of its "
                f"current's shape {tuple(self.zero.shape)}"
            )
        if not done.asked:
            raise self._refused(
                f"its step does not call its surrogate function, `{self.step.surrogate}`; fire through it"
            )
        self.single = self.single or done.asked[-1].dtype == torch.float32
        return done

    def normal(self, scale: float) -> Tensor:
        drawn = torch.randn(self.zero.shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.zero) * scale

    def states(self) -> States:
        return tuple(state + self.normal(0.5) for state in self.rest)

    def bits(self) -> Tensor:
        """Return zeros and ones, both among them."""
        drawn = self.normal(1) > 0
        drawn.view(-1)[0], drawn.view(-1)[-1] = True, False
        return drawn.to(self.zero)

    def close(self, a: Any, b: Any) -> bool:
        single = any(isinstance(value, Tensor) and value.dtype == torch.float32 for value in (a, b))
        tolerance = 1e-4 if self.single or single else 1e-8
        a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
        scale = max(1.0, float(a.abs().max()), float(b.abs().max()))
        return bool(((a - b).abs() <= tolerance * scale).all())

    def _refused(self, why: str) -> UnsupportedModelError:
        when = "with other values of its parameters, " if self.moved else ""
        return UnsupportedModelError(f"{self.where} cannot be run event by event: {when}{why}")

    # -- one step --------------------------------------------------------------------------------------

    def _check_calls(self, charging: nn.Module, current: Tensor, states: States) -> list[bool]:
        """Return of every call whether it is this timestep's comparison, or repeats it."""
        answers = [self.bits()]
        first = self.run(None, current, states, answers)
        answers = [self.bits() for _ in first.asked]
        first, again = (self.run(None, current, states, answers) for _ in range(2))
        if any(bool(value.isnan().any()) for value in (*first.asked, first.sent, *first.states)):
            raise UnsupportedModelError(f"{self.where}: {not_finite(self.module)}; give finite values")
        if not self._same(first, again):
            raise self._refused("its step draws random numbers")
        used = self.step.copy(self.module)
        self.run(used, self.normal(2), self.states(), answers)
        if not self._same(first, self.run(used, current, states, answers)):
            raise self._refused(
                f"it keeps more than its states ({', '.join(self.step.names)}) between timesteps"
            )
        sends = [torch.equal(first.sent.to(answer), answer) for answer in answers]
        if not any(sends):
            raise self._refused(
                "it does not send what its surrogate function returns: its output is analog, and would have to wait "
                "for the end of the timestep"
            )
        fires = sends.index(True)
        one = self.run(charging, current, states, answers)
        other = self.run(charging, self.normal(2), states, answers)
        moving: list[bool] = []
        for k, (a, b) in enumerate(zip(one.asked, other.asked, strict=True)):
            same = self.close(a, one.asked[fires]) and self.close(b, other.asked[fires])
            if k != fires and not same and not self.close(a, b):
                raise self._refused("it compares its current with more than one threshold")
            moving.append(k == fires or same)
        return moving

    def _same(self, a: Done, b: Done) -> bool:
        pairs = zip((*a.asked, a.sent, *a.states), (*b.asked, b.sent, *b.states), strict=True)
        return len(a.asked) == len(b.asked) and all(torch.equal(x, y) for x, y in pairs)

    def _check_rest(self, current: Tensor, calls: int) -> None:
        if self.step.starts(self.step.copy(self.module)):
            answers = [self.bits() for _ in range(calls)]
            if not self._same(*(self.run(None, current, states, answers) for states in (None, self.rest))):
                raise self._refused("its states start from other values than 0")

    def _gain(self, charging: nn.Module, states: States, moving: list[bool]) -> Tensor:
        """Return the potential per unit of current, after showing that there is such a thing."""
        answers, fires = [self.bits() for _ in moving], moving.index(True)

        def excess(current: Tensor) -> Tensor:
            return self.run(charging, current, states, answers).asked[fires]

        at_zero, at_one = excess(self.zero), excess(self.zero + 1)
        for scale in (1.0, 30.0, 1000.0):
            current = self.normal(scale)
            if not self.close(excess(current), at_zero + (at_one - at_zero) * current):
                raise self._refused(
                    "its potential is not affine in its current, so that what arrives cannot be added up"
                )
        return at_one - at_zero

    def _check_elementwise(self, charging: nn.Module, current: Tensor, states: States) -> None:
        """Raise UnsupportedModelError if one neuron's current or state reaches another neuron."""
        changed, answer = self.bits().bool(), self.bits()

        def mixed(value: Tensor) -> Tensor:
            return torch.where(changed, self.normal(1), value)

        others = mixed(current), tuple(map(mixed, states)), torch.where(changed, 1 - answer, answer)
        for own in (charging, None):
            one = self.run(own, current, states, [answer])
            other = self.run(own, others[0], others[1], [others[2]])
            for a, b in zip((*one.asked, *one.states), (*other.asked, *other.states), strict=True):
                if not self.close(a[~changed], b[~changed]):
                    raise self._refused("its neurons depend on each other within a timestep, a barrier")

    def _check_samples(self, charging: nn.Module, current: Tensor, states: States) -> None:
        """Raise UnsupportedModelError if a sample runs otherwise in a batch than alone."""
        answer = self.bits()
        for own in (charging, None):
            together = self.run(own, current, states, [answer])
            for k in range(FEWEST[0]):
                one = slice(k, k + 1)
                alone = self.run(own, current[one], tuple(state[one] for state in states), [answer[one]])
                for a, b in zip(
                    (*together.asked, *together.states), (*alone.asked, *alone.states), strict=True
                ):
                    if not self.close(a[one], b):
                        raise self._refused(
                            "a sample's step depends on its batch; compute every sample as if it were alone"
                        )

    def check_gradients(self) -> None:
        """Raise UnsupportedModelError unless autograd sees what values show: an affine charge, and spikes sent."""
        charging = self.step.copy(self.module, charging=True)
        fires, weight = self.moving.index(True), self.normal(1)
        with torch.enable_grad():
            current, *held = (value.clone().requires_grad_() for value in (self.normal(2), *self.states()))
            answers = [self.bits().requires_grad_() for _ in self.moving]
            leaves = [current, *held, *(p for p in charging.parameters() if p.requires_grad)]

            def excess(x: Tensor) -> Tensor:
                return self.run(charging, x, tuple(held), answers).asked[fires]

            at_zero, at_one = excess(self.zero), excess(self.zero + 1)
            kinds = (excess(current), at_zero + (at_one - at_zero) * current)
            for a, b in zip(*(self._gradients(weight * u, leaves) for u in kinds), strict=True):
                if not self.close(a, b):
                    raise self._refused(
                        "the gradient of its potential is not that of its value (a part of it is detached); "
                        "leave it attached"
                    )
            sent = self.run(None, current, tuple(held), answers).sent
            (by_spike,) = self._gradients(weight * sent, [answers[fires]])
            if not self.close(by_spike, weight):
                raise self._refused(
                    "the gradient of what it sends is not that of its surrogate function; send its spikes as they are"
                )

    def _gradients(self, value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        if not value.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]

    # -- over two steps --------------------------------------------------------------------------------

    def _calls(self, moving: list[bool]) -> tuple[Call, ...]:
        answers = [self.zero + float(moves) for moves in moving]  # all spike, none did before
        first = self.run(None, self.normal(2), self.states(), answers)
        second = self.run(None, self.normal(2), first.states, answers)
        fires, late = moving.index(True), self._late(moving)
        return tuple(  # a delayed reset asks what was asked before, whatever the reset at once has made of it
            "fires" if moves else late if self.close(second.asked[k], first.asked[fires]) else "above"
            for k, moves in enumerate(moving)
        )

    def _late(self, moving: list[bool]) -> Call:
        """Return how a delayed reset takes last timestep's spikes, "above" if there is none.

        For each of them if it takes one threshold off the potential and does nothing else.
        """
        current, states, fires = self.normal(2), self.states(), moving.index(True)
        own = self.step.copy(self.module)
        threshold = spread(self.step.threshold(own, self.zero), self.zero)

        def after(spikes: float) -> Done:
            answers = [self.zero if moves else self.zero + spikes for moves in moving]
            return self.run(own, current, states, answers)

        none, one, two = after(0), after(1), after(2)
        if self.close(none.asked[fires], one.asked[fires]) and self._close_all(none.states, one.states):
            return "above"
        subtracts = all(
            self.close(none.asked[fires] - count * threshold, done.asked[fires])
            and self._close_all(none.states[1:], done.states[1:])
            for count, done in ((1, one), (2, two))
        )
        return "fired" if subtracts else "fired once"

    def _close_all(self, a: States, b: States) -> bool:
        return all(map(self.close, a, b))

    # -- resets ----------------------------------------------------------------------------------------

    def _resets(self, calls: tuple[Call, ...]) -> Reading:
        """Find out what a spike does to the states, from steps that differ in spikes, currents and states only."""
        own, fires, others = self.step.copy(self.module), calls.index("fires"), self.bits()
        states = self.states()
        starts = [(self.normal(2), states), (self.normal(2), states), (self.normal(2), self.states())]
        far = 30 if self.single else 1000  # where a clamp would show
        starts.append((far * self.normal(2), states))
        starts.append((far * self.normal(2), tuple(far * state for state in self.states())))

        def after(start: tuple[Tensor, States], spikes: Tensor) -> Done:
            return self.run(own, *start, [spikes if call == "fires" else others for call in calls])

        silent, once, twice = ([after(start, self.zero + count) for start in starts] for count in range(3))
        steps = list(zip(silent, once, twice, strict=True))
        if not all(bool(value.isfinite().all()) for value in (*silent[-1].asked, *silent[-1].states)):
            steps, silent = steps[:-1], silent[:-1]  # an exponential of its state, say
        named = spread(self.step.threshold(own, self.zero), self.zero)
        moving = [done.states[0] - done.asked[fires] for done in silent]
        reset, moves = self._kind(steps, fires, [named] * len(steps)), False
        if reset == "own" and self.close(moving[0], moving[1]) and self.close(moving[0], moving[3]):
            reset, moves = self._kind(steps, fires, moving), True
        acts = not self.close(once[0].asked[fires], once[1].asked[fires])
        keeps = not self._close_all(once[0].states, once[1].states)
        holds = reset == "value" and acts and keeps  # a current that follows a spike reaches another state
        if (holds and moves) or (
            reset == "value" and not self._sets_gradients(own, calls, silent[0], starts[0])
        ):
            reset = "own"
        at_once = reset in ("subtract", "value")
        return Reading(
            calls=calls,
            reset=reset if at_once else "none",
            reset_value=float(once[0].states[0].flatten()[0]) if reset == "value" else 0.0,
            detach_reset=at_once and self._detaches(own, calls),
            repeats=reset != "own",
            moving_threshold=at_once and moves,
            reset_holds=at_once and holds,
            own_refractory="integrate" if keeps else "discard",
        )

    def _kind(self, steps: list[tuple[Done, Done, Done]], fires: int, thresholds: list[Tensor]) -> str:
        """Return what a spike does at once: "none", "subtract", "value", or what is the class's "own".

        Args:
            steps: without a spike, with one and with two.
        """
        added = [
            [(b - a, c - a) for a, b, c in zip(*(done.states for done in step), strict=True)]
            for step in steps
        ]
        for same in list(zip(*added, strict=True))[
            1:
        ]:  # another state may get the same from every spike, always
            first = same[0][0]
            if not all(self.close(one, first) and self.close(two, 2 * first) for one, two in same):
                return "own"
        potential = [changes[0] for changes in added]
        if all(self.close(one, 0.0) and self.close(two, 0.0) for one, two in potential):
            return "none"
        pairs = list(zip(potential, thresholds, strict=True))
        if all(self.close(one, -theta) and self.close(two, -2 * theta) for (one, two), theta in pairs):
            return "subtract"
        value = steps[0][1].states[0].flatten()[0]
        sets = all(self.close(once.states[0], value) for _, once, _ in steps) and all(
            self.close(silent.asked[fires] + theta, silent.states[0])
            for (silent, *_), theta in zip(steps, thresholds, strict=True)
        )
        return "value" if sets and not self.graded else "own"

    def _sets_gradients(
        self, own: nn.Module, calls: tuple[Call, ...], silent: Done, start: tuple[Tensor, States]
    ) -> bool:
        """Return whether autograd sees a hard reset as u + s (value - u), s detached or not."""
        fires, spikes, others = calls.index("fires"), self.bits(), self.bits()
        with torch.enable_grad():
            current, spikes = start[0].clone().requires_grad_(), spikes.requires_grad_()
            answers = [spikes if call == "fires" else others for call in calls]
            done = self.run(own, current, start[1], answers)
            by_current, by_spike = self._gradients(done.states[0], [current, spikes])
            (gain,) = self._gradients(done.asked[fires], [current])
        value = done.states[0].detach()[spikes > 0][0]
        follows = not bool(by_spike.any()) or self.close(by_spike, value - silent.states[0])
        return follows and self.close(by_current, (1 - spikes.detach()) * gain)

    def _detaches(self, own: nn.Module, calls: tuple[Call, ...]) -> bool:
        """Return whether the potential after a spike has no gradient by it."""
        spikes, others = self.bits().requires_grad_(), self.bits()
        with torch.enable_grad():
            answers = [spikes if call == "fires" else others for call in calls]
            after = self.run(own, self.normal(2), self.states(), answers).states[0]
            if not after.requires_grad:
                return True
            (gradient,) = torch.autograd.grad(after.sum(), spikes, allow_unused=True)
        return gradient is None or not bool(gradient.any())
