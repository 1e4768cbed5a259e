"""A source model as a network without layer synchronization; `snn_async.asynchronize` makes one."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_async import checks
from snn_async.capture import Encoded, Observed, arguments_of, capture, kind_of, only_runs, tensors_among
from snn_async.engines.choice import choose_engine
from snn_async.engines.contract import Engine, Execution, PendingEvents
from snn_async.errors import CheckpointError, GradientError, InputError, UnsupportedModelError
from snn_async.frameworks.calls import held_between_calls
from snn_async.frameworks.closures import picklable
from snn_async.graph import Graph
from snn_async.graph.grids import from_units
from snn_async.graph.parameters import collect, scales_of
from snn_async.learning.rule import Job, Shown, Standing
from snn_async.learning.unlayered import UnlayeredBackprop
from snn_async.options import Options, in_evaluation, with_barrier
from snn_async.results import (
    AsyncRun,
    AsyncState,
    Record,
    activity_of,
    check_state,
    continued,
    layout_of_state,
)
from snn_async.trace import Trace, trace_of

_MOST_CAPTURES = 16  # of input shapes and modes that are kept
_ONE_AT_A_TIME = threading.RLock()  # a capture exchanges what neuron modules do, and parameters


class Captured(Protocol):
    """What a model computes for inputs of certain shapes (`snn_async.capture.Captured`).

    Attributes:
        steps, samples: T and B.
        shown: what `decode` needs of a run, see `Job.shown`.
        outside: whether the model's forward is one timestep, called once for each.
    """

    graph: Graph
    outside: bool
    steps: int
    samples: int
    shown: tuple[Shown, ...]

    def encode(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
        """Run what no neuron reaches, with the parameters as they are now."""
        ...

    def decode(self, encoded: Encoded, shown: Mapping[Shown, Tensor]) -> Any:
        """Return what the model returns."""
        ...

    def describe(self) -> str:
        """Return how the model was understood."""
        ...


class Plan(NamedTuple):
    """How inputs of certain shapes are run."""

    capture: Captured
    engine: Engine
    execution: Execution

    @property
    def graph(self) -> Graph:
        return self.capture.graph


class AsyncNetwork(nn.Module):
    """A source model run without layer synchronization. Make one with `asynchronize`.

    It is called as its model is, and returns what its model returns. A model whose forward is one timestep is given
    every tensor with time in front, (T, B, ...), and its results come stacked over T.

    Attributes:
        model: the source model; its parameters and train/eval mode are this network's.
        options: how it is executed.
        seed: of the schedule in evaluation.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        backend: str | Engine,
        seed: int = 0,
        capture: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Captured] = capture,
    ) -> None:
        super().__init__()
        self.model, self.options, self.seed = model, options, seed
        self._backend, self._capture = backend, capture
        self._plans: dict[object, Plan] = {}  # by what was captured, the latest last
        self.training = model.training

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Return how a call with these arguments is run; the model is captured at the first one of their shapes.

        Raises:
            InputError, UnsupportedModelError: for what cannot be run event by event, with its place and the way out.
            OptionError: for options that contradict the graph.
            UnsupportedByEngineError: if the engine cannot run it.
        """
        return self._planned(args, kwargs)[0]

    def _planned(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Plan, tuple[Any, ...], dict[str, Any]]:
        """Return how a call is run, and its arguments as the model takes them."""
        with _ONE_AT_A_TIME:
            args, kwargs = arguments_of(self.model, args, kwargs)
            key = Observed(self.model, args, kwargs)
            plan = self._plans.pop(key, None)
            if plan is None:
                found = self._capture(self.model, args, kwargs)
                execution = self.options.execution(found.graph)
                self.options.training_rule.check(found.graph, execution)
                device = kind_of(self.model)[1]
                engine = choose_engine(self._backend, found.graph, execution, device)
                plan = Plan(found, engine, execution)
            self._plans[key] = plan
            while len(self._plans) > _MOST_CAPTURES:
                del self._plans[next(iter(self._plans))]
            return plan, args, kwargs

    @property
    def shown(self) -> Plan:
        """The plan of the latest call.

        Raises:
            InputError: before any call of a network that was made without `example_inputs` or `input_shape`.
        """
        if not self._plans:
            raise InputError(
                "the network's sizes follow from its input, and none was given yet; call it once, or "
                "asynchronize(model, example_inputs=...) or asynchronize(model, input_shape=(C, H, W))"
            )
        return next(reversed(self._plans.values()))

    @property
    def graph(self) -> Graph:
        """Populations, junctions and projections; InputError as for `shown`."""
        return self.shown.graph

    @property
    def execution(self) -> Execution:
        """The options as they apply to `graph`; InputError as for `shown`."""
        return self.shown.execution

    @property
    def backend(self) -> str:
        """Name of the engine that runs `graph`; InputError as for `shown`."""
        return self.shown.engine.name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns, of spikes and potentials without layer synchronization; differentiable."""
        return self.run(*args, **kwargs).result

    def run(
        self,
        *args: Any,
        state: AsyncState | None = None,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        record: Sequence[str] = (),
        **kwargs: Any,
    ) -> AsyncRun:
        """Run the model's T timesteps.

        Args:
            args, kwargs: those of the model; of a model whose forward is one timestep, every tensor with time in front.
            state: continue from here; from where the model starts if None. Gradients flow into the run it came from;
                use `state.detach()` to cut them.
            seed: keys the random numbers; if None, the state's, else drawn from torch's generator in
                training and the network's own in evaluation.
            sample_ids: (B,) integers that key each sample's random numbers; if None, the state's, else
                0, 1, ..., B - 1.
            record: populations whose spikes and potentials to return as well.

        Returns:
            The model's result, spikes and potentials, differentiable by the options' training rule (docs/design.md,
            section 5), exact counts, the state to continue from. `backward` raises GradientError if a surrogate's slope
            is not finite.

        Raises:
            InputError: for an input, state, sample ids or record that does not fit.
            OptionError: for a seed that is no integer.
            UnsupportedModelError: for a model that cannot be run, or a parameter that is NaN or infinite.
            RunawayError: if a timestep exceeds `max_forward_steps`.
        """
        return self._run(False, args, kwargs, state, seed, sample_ids, record)

    def layered(
        self,
        *args: Any,
        state: AsyncState | None = None,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        record: Sequence[str] = (),
        **kwargs: Any,
    ) -> AsyncRun:
        """Run the same parameters with the barrier: its result is the source model's own.

        Arguments, result and errors are those of `run`; no spike is left over, no schedule is drawn, and the gradient
        is layered backpropagation through time. BatchNorm uses its running statistics here too, as the model does in
        `eval()`; to train with a batch's statistics, train the source model itself.
        """
        return self._run(True, args, kwargs, state, seed, sample_ids, record)

    def trace(
        self,
        *args: Any,
        sample: int = 0,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        layered: bool = False,
        **kwargs: Any,
    ) -> Trace:
        """Return what one sample of a batch does, forward step by forward step; `print` shows it as a table.

        It runs as in evaluation (no refractory dropout) and leaves torch's generator as it was. The schedule is the one
        `run` gives the sample in evaluation.

        Args:
            args, kwargs: those of `run`.
            sample: which of the B samples.
            seed: keys the random numbers; the network's own if None.
            sample_ids: (B,) integers that key each sample's random numbers; 0, 1, ..., B - 1 if None.
            layered: with the barrier, as `layered` runs it.

        Raises:
            InputError: for an input or sample ids that do not fit, or a sample out of range.
            RunawayError: if a timestep exceeds `max_forward_steps`.
        """
        with _evaluating(self.model):
            return self._trace(args, kwargs, sample, seed, sample_ids, layered)

    def _trace(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sample: int,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
        layered: bool,
    ) -> Trace:
        plan, args, kwargs = self._planned(args, kwargs)
        samples = plan.capture.samples
        sample = checks.check_sample(sample, samples)
        ids = checks.check_sample_ids(sample_ids, samples)
        execution = with_barrier(plan.execution) if layered else in_evaluation(plan.execution)
        seed = self.seed if seed is None else checks.check_seed(seed)
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            with _ONE_AT_A_TIME:
                encoded = plan.capture.encode(self.model, args, kwargs)
            job = job_for(plan._replace(execution=execution), encoded, None, seed, ids)
            job = replace(job.of_sample(sample), keep_log=True)
            trajectory = UnlayeredBackprop().run(job)
        return trace_of(job, trajectory, sample)

    def describe(self) -> str:
        """Return `graph`, the execution options and the engine as text; InputError as for `shown`."""
        e = self.execution
        size = "all" if e.forward_group_size is None else e.forward_group_size
        options = (
            f"scheduler {e.scheduler}, F = {size}, stop {e.stop}, leftover {e.leftover}, input {e.input}"
        )
        shown = self.shown
        return "\n".join(
            [
                shown.capture.describe(),
                self.graph.describe(),
                options,
                f"engine {self.backend}, rule {self.options.training_rule.name}",
            ]
        )

    def extra_repr(self) -> str:
        if not self._plans:
            return "its sizes follow from the first input"
        return f"scheduler={self.execution.scheduler}, backend={self.backend!r}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_modules": {"model": picklable(self.model)}}  # captured anew

    def __prepare_scriptable__(self) -> None:
        raise only_runs("torch.jit.script")

    def __deepcopy__(self, memo: dict[int, Any]) -> "AsyncNetwork":
        return AsyncNetwork(
            copy.deepcopy(self.model, memo), self.options, self._backend, self.seed, self._capture
        )

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint of this network or of its source model.

        Raises:
            CheckpointError: if it was made for another architecture; nothing is loaded then.
        """
        own = self.state_dict()
        if not isinstance(state_dict, Mapping) or not all(isinstance(v, Tensor) for v in state_dict.values()):
            raise CheckpointError(
                f"a {type(state_dict).__name__} is no state_dict of tensors by name; "
                "from a file with more in it, pass its 'state_dict' entry"
            )
        named = dict(state_dict)
        if not named.keys() & own.keys():
            named = {f"model.{k}": v for k, v in state_dict.items()}
        problems = [f"{k} is missing" for k in own if k not in named] if strict else []
        problems += [f"{k} is unknown" for k in named if k not in own] if strict else []
        problems += [
            f"{k} has shape {tuple(v.shape)} instead of {tuple(own[k].shape)}"
            for k, v in named.items()
            if k in own and v.shape != own[k].shape
        ]
        if problems:
            raise CheckpointError(
                f"the checkpoint was made for another architecture: {'; '.join(problems[:5])}"
                f"{' ...' if len(problems) > 5 else ''}. Build the model it was made for"
            )
        return super().load_state_dict(named, strict=strict, assign=assign)

    @torch.compiler.disable
    def _run(
        self,
        layered: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: AsyncState | None,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
        record: Sequence[str],
    ) -> AsyncRun:
        plan, args, kwargs = self._planned(args, kwargs)
        graph, captured = plan.graph, plan.capture
        execution = with_barrier(plan.execution) if layered else plan.execution
        execution = execution if self.model.training else in_evaluation(execution)
        names = checks.check_record(record, graph)
        if state is not None:
            check_state(state, graph, captured.samples)
            sample_ids = state.sample_ids if sample_ids is None else sample_ids
        ids = checks.check_sample_ids(sample_ids, captured.samples)
        seed = None if seed is None else checks.check_seed(seed)
        hooked = [p.name for p in graph.populations if p.neuron.module._forward_hooks]
        with torch.autocast(tensors_among(args, kwargs)[0].device.type, enabled=False):
            with _ONE_AT_A_TIME:
                encoded = captured.encode(self.model, args, kwargs)
            if seed is None:  # after what the model draws itself
                seed = self.seed if layered and state is None else self._seed(state)
            job = job_for(plan._replace(execution=execution), encoded, state, seed, ids)
            wanted = [(name, what) for name in (graph.output, *names, *hooked) for what in ("spikes", 0)]
            job = replace(job, shown=tuple(dict.fromkeys([*captured.shown, *wanted])))
            rule = UnlayeredBackprop() if layered else self.options.training_rule
            done = rule.run(job)
            if isinstance(rule, UnlayeredBackprop):
                _differentiable_once([*done.shown.values(), *pytree.tree_leaves(done.standing.neurons)])
            result = captured.decode(encoded, done.shown)
        records = {
            name: Record(*(_shaped(graph, name, done.shown[name, what]) for what in ("spikes", 0)))
            for name in (graph.output, *names, *hooked)
        }
        for name in hooked:
            _call_hooks(name, graph.populations[graph.index[name]].neuron.module, records[name].spikes)
        return AsyncRun(
            result=result,
            spikes=records[graph.output].spikes,
            potentials=records[graph.output].potentials,
            state=AsyncState(done.standing, job.timestep + captured.steps, seed, ids, layout_of_state(graph)),
            activity=activity_of(graph, done.counts),
            records={name: records[name] for name in names},
        )

    def _seed(self, state: AsyncState | None) -> int:
        if state is not None:
            return state.seed
        return int(torch.randint(2**62, ())) if self.model.training else self.seed


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block: the model is in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _differentiable_once(results: Sequence[Tensor]) -> None:
    """Let a gradient through `results` that is to be differentiated again raise GradientError."""

    def check(gradient: Tensor) -> None:
        if torch.is_grad_enabled():
            raise GradientError(
                "create_graph=True asks for a second derivative, but the network is differentiable once: its backward "
                "replays the events of a run, which autograd does not see. Leave create_graph out, or take the second "
                "derivative of the source model"
            )

    for value in results:
        if value.requires_grad:
            value.register_hook(check)


class _Inputs(tuple[Tensor, ...]):
    """What a forward hook gets in place of its module's inputs, which are events; to look at it raises."""

    def _refuse(self, *args: Any) -> Any:
        raise UnsupportedModelError(
            "a forward hook reads the inputs of its neurons, but currents reach them event by event and are not kept; "
            "use the hook's third argument, the spikes"
        )

    __getitem__ = __iter__ = __len__ = __bool__ = _refuse


def _call_hooks(name: str, module: nn.Module, spikes: Tensor) -> None:
    """Call a neuron's forward hooks with the spikes (T, B, ...) of a run, which leaves no states in the module."""
    states = held_between_calls(module)
    tables = [vars(module), module._buffers, vars(module).get("_memories", {})]
    held = [{key: table.pop(key) for key in states & table.keys()} for table in tables]
    try:
        for key, hook in module._forward_hooks.items():
            named: tuple[Any, ...] = ({},) if key in module._forward_hooks_with_kwargs else ()
            if hook(module, _Inputs(), *named, spikes) is not None:
                raise UnsupportedModelError(
                    f"a forward hook of {name!r} returns a value, but spikes cannot be replaced; let it return None"
                )
    except AttributeError as error:
        read = next((state for state in sorted(states) if f"attribute {state!r}" in str(error)), None)
        if read is None:
            raise
        raise UnsupportedModelError(
            f"a forward hook of {name!r} reads its {read!r}, but a run leaves no states in the neurons; take "
            f"net.run(x, record=({name!r},)).records[{name!r}].potentials"
        ) from error
    finally:
        for table, kept in zip(tables, held, strict=True):
            table.update(kept)


def job_for(plan: Plan, encoded: Encoded, state: AsyncState | None, seed: int, sample_ids: Tensor) -> Job:
    """Return what is to be run; the neurons' live parameters are read."""
    graph, x = plan.graph, encoded.x
    like = x.detach()
    with _ONE_AT_A_TIME:
        live = tuple(population.neuron.read(population, like) for population in graph.populations)
    neurons = tuple(
        population.neuron.started(
            own, encoded.states.get(population.name, ()), population.neuron.rest(own, x.shape[1], like)
        )
        for population, own in zip(graph.populations, live, strict=True)
    )
    spikes = like.new_zeros(()).expand(x.shape[1], graph.size)
    held = graph.input_size - x.shape[2]  # memories are the inputs that are not encoded
    rest = Standing(neurons, spikes, PendingEvents.none(like), like.new_zeros((x.shape[1], held)))
    source_scale, target_scale = scales_of(graph, encoded.gains, len(x))
    return Job(
        engine=plan.engine,
        graph=graph,
        execution=plan.execution,
        parameters=tuple(collect(graph, like, encoded.gains, found) for found in encoded.found),
        x=x,
        source_scale=source_scale,
        target_scale=target_scale,
        live=live,
        seed=seed,
        sample_ids=sample_ids.to(x.device),
        memories=encoded.memories,
        timestep=0 if state is None else state.timestep,
        standing=rest if state is None else continued(state, rest),
        shown=((graph.output, "spikes"),),
    )


def _shaped(graph: Graph, name: str, x: Tensor) -> Tensor:
    """Return a population's results (T, B, size) in the source model's shape, (T, B, *shape)."""
    population = graph.populations[graph.index[name]]
    ordered = from_units(x, population.grid)
    return ordered if ordered.shape[2:] == population.shape else ordered.unflatten(2, population.shape)
