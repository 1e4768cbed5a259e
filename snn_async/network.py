"""A source model as a network without layer synchronization; `snn_async.asynchronize` makes one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from snn_async import checks
from snn_async.engines.choice import choose_engine
from snn_async.engines.contract import Engine, Execution, PendingEvents
from snn_async.errors import CheckpointError, InputError, UnsupportedModelError
from snn_async.graph import Graph
from snn_async.graph.grids import from_units
from snn_async.graph.parameters import collect, dropout_masks
from snn_async.learning.rule import Job, Rule, Standing, Trajectory
from snn_async.learning.unlayered import UnlayeredBackprop
from snn_async.options import Options, in_evaluation, with_barrier
from snn_async.results import AsyncRun, AsyncState, Record, activity_of, check_state, layout_of_state
from snn_async.trace import Trace, trace_of


class Source(Protocol):
    """What a model was read as.

    Attributes:
        shape: of one sample of the input, where the model fixes it; else None.
    """

    shape: tuple[int, ...] | None

    def graph(self, shape: tuple[int, ...]) -> Graph:
        """Return the graph for an input of `shape` per sample."""
        ...

    def check(self, model: nn.Module, graph: Graph) -> None:
        """Raise UnsupportedModelError if `model` is no longer what was read."""
        ...


class Plan(NamedTuple):
    """How inputs of one shape are run."""

    graph: Graph
    engine: Engine
    execution: Execution


class AsyncNetwork(nn.Module):
    """A source model run without layer synchronization. Make one with `asynchronize`.

    Attributes:
        model: the source model; its parameters and train/eval mode are this network's.
        options: how it is executed.
        seed: of the schedule in evaluation.
    """

    def __init__(
        self, model: nn.Module, source: Source, options: Options, backend: str | Engine, seed: int = 0
    ) -> None:
        super().__init__()
        self.model, self.options, self.seed = model, options, seed
        self._source, self._backend = source, backend
        self._plans: dict[tuple[int, ...], Plan] = {}  # by input shape, in the order in which they were made
        self.training = model.training
        if source.shape is not None:
            self.plan(source.shape)

    def plan(self, shape: tuple[int, ...]) -> Plan:
        """Return how inputs of `shape` per sample are run, made at the first of them.

        Raises:
            InputError, UnsupportedModelError: for a shape that a layer cannot take, or what cannot be mapped exactly.
            OptionError: for options that contradict the graph.
            UnsupportedByEngineError: if the engine cannot run it.
        """
        if self._source.shape is not None:
            shape = self._source.shape  # a model that fixes its features takes any shape of so many
        if shape not in self._plans:
            graph = self._source.graph(shape)
            execution = self.options.execution(graph)
            self.options.training_rule.check(graph, execution)
            engine = choose_engine(self._backend, graph, execution)
            _kind_of(graph)
            self._plans[shape] = Plan(graph, engine, execution)
        return self._plans[shape]

    @property
    def shown(self) -> Plan:
        """The plan for the model's own input shape, else for the first input that was run.

        Raises:
            InputError: before any run of a model whose sizes follow from its input only.
        """
        if not self._plans:
            raise InputError(
                "the model's sizes follow from its input only, and none was given yet; call "
                "asynchronize(model, input_shape=(C, H, W)) or run it once"
            )
        return next(iter(self._plans.values()))

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

    def forward(self, x: Tensor) -> Tensor:
        """Return output spike counts (T, B, *output) for x (T, B, ...), differentiable.

        Where the source model returns potentials and no spikes (a readout: SpikingJelly's non-spiking nodes, a
        snnTorch module that returns `mem` only, a model that ends in a Linear), these are the output's potentials, of a
        Linear its currents in every timestep; `net.graph.reads` says which. A SpikingJelly readout decodes them.
        """
        return self.run(x).output

    def run(
        self,
        x: Tensor,
        state: AsyncState | None = None,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        record: Sequence[str] = (),
    ) -> AsyncRun:
        """Run T timesteps.

        Args:
            x: (T, B, ...) finite input; floating or integer.
            state: continue from here; from rest if None. Gradients flow into the run it came from; use
                `state.detach()` to cut them.
            seed: keys the random numbers; if None, the state's, else drawn from torch's generator in
                training and the network's own in evaluation.
            sample_ids: (B,) integers that key each sample's random numbers; if None, the state's, else
                0, 1, ..., B - 1.
            record: populations whose spikes and potentials to return as well.

        Returns:
            Spikes and potentials, differentiable by the options' training rule (docs/design.md, section 5), exact
            counts, the state to continue from. `backward` raises GradientError if a surrogate's slope is not finite.

        Raises:
            InputError: for an input, state, sample ids or record that does not fit.
            OptionError: for a seed that is no integer.
            UnsupportedModelError: if the model changed since `asynchronize`, or a parameter is NaN or infinite.
            RunawayError: if a timestep exceeds `max_forward_steps`.
        """
        return self._run(False, x, state, seed, sample_ids, record)

    def layered(
        self,
        x: Tensor,
        state: AsyncState | None = None,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        record: Sequence[str] = (),
    ) -> AsyncRun:
        """Run the same parameters with the barrier: equal to the source model's own run.

        Arguments, result and errors are those of `run`; no spike is left over, no schedule is drawn, and the gradient
        is layered backpropagation through time. BatchNorm uses its running statistics here too, as the model does in
        `eval()`; to train with a batch's statistics, train the source model itself.
        """
        return self._run(True, x, state, seed, sample_ids, record)

    def trace(
        self,
        x: Tensor,
        sample: int = 0,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        *,
        layered: bool = False,
    ) -> Trace:
        """Return what one sample of a batch does, forward step by forward step; `print` shows it as a table.

        It runs from rest as in evaluation (no dropout of any kind), on this network's engine, and leaves
        torch's generator as it was. The schedule is the one `run` gives the sample in evaluation.

        Args:
            x: (T, B, ...) finite input; floating or integer.
            sample: which of the B samples.
            seed: keys the random numbers; the network's own if None.
            sample_ids: (B,) integers that key each sample's random numbers; 0, 1, ..., B - 1 if None.
            layered: with the barrier, as `layered` runs it.

        Raises:
            InputError: for an input or sample ids that do not fit, or a sample out of range.
            RunawayError: if a timestep exceeds `max_forward_steps`.
        """
        checks.check_dimensions(x)
        graph, engine, execution = self.plan(tuple(x.shape[2:]))
        flat = checks.check_input(x, graph, *_kind_of(graph))
        sample = checks.check_sample(sample, flat.shape[1])
        ids = checks.check_sample_ids(sample_ids, flat.shape[1])[sample : sample + 1]
        execution = with_barrier(execution) if layered else in_evaluation(execution)
        seed = self.seed if seed is None else checks.check_seed(seed)
        with torch.no_grad():
            job = job_for(Plan(graph, engine, execution), flat[:, sample : sample + 1], None, seed, ids)
            trajectory = _run(UnlayeredBackprop(), replace(job, keep_log=True))
        return trace_of(job, trajectory, sample)

    def describe(self) -> str:
        """Return `graph`, the execution options and the engine as text; InputError as for `shown`."""
        e = self.execution
        size = "all" if e.forward_group_size is None else e.forward_group_size
        options = (
            f"scheduler {e.scheduler}, F = {size}, stop {e.stop}, leftover {e.leftover}, input {e.input}"
        )
        return f"{self.graph.describe()}\n{options}\nengine {self.backend}, rule {self.options.training_rule.name}"

    def extra_repr(self) -> str:
        if not self._plans:
            return "its sizes follow from the first input"
        return f"scheduler={self.execution.scheduler}, backend={self.backend!r}"

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

    def _run(
        self,
        layered: bool,
        x: Tensor,
        state: AsyncState | None,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
        record: Sequence[str],
    ) -> AsyncRun:
        checks.check_dimensions(x)
        graph, engine, execution = self.plan(tuple(x.shape[2:]))
        execution = with_barrier(execution) if layered else execution
        execution = execution if self.model.training else in_evaluation(execution)
        self._source.check(self.model, graph)
        names = checks.check_record(record, graph)
        flat = checks.check_input(x, graph, *_kind_of(graph))
        if state is not None:
            check_state(state, graph, flat.shape[1])
            sample_ids = state.sample_ids if sample_ids is None else sample_ids
        ids = checks.check_sample_ids(sample_ids, flat.shape[1])
        seed = self._seed(state) if seed is None else checks.check_seed(seed)
        job = job_for(Plan(graph, engine, execution), flat, state, seed, ids, masks=True)
        job = replace(job, shown=(graph.output, *names))
        done = _run(UnlayeredBackprop() if layered else self.options.training_rule, job)
        output, *records = [
            Record(_shaped(graph, name, spikes), _shaped(graph, name, v))
            for name, spikes, v in zip(job.shown, done.spikes, done.potentials, strict=True)
        ]
        return AsyncRun(
            spikes=output.spikes,
            potentials=output.potentials,
            state=AsyncState(done.standing, job.timestep + len(flat), seed, ids, layout_of_state(graph)),
            activity=activity_of(graph, done.counts),
            records=dict(zip(names, records, strict=True)),
            reads=graph.reads,
            decode=graph.populations[graph.index[graph.output]].neuron.decode,
        )

    def _seed(self, state: AsyncState | None) -> int:
        if state is not None:
            return state.seed
        return int(torch.randint(2**62, ())) if self.model.training else self.seed


def _kind_of(graph: Graph) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and device of the model's weights.

    Raises:
        UnsupportedModelError: unless they are one of float32 and float64, on one device.
    """
    modules = [module for projection in graph.projections for module in projection.synapses.modules]
    held = [t for m in modules for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()]
    held = held or [torch.zeros(())]  # synapses without weights
    kinds = {(tensor.dtype, tensor.device) for tensor in held}
    if len(kinds) != 1 or held[0].dtype not in (torch.float32, torch.float64):
        raise UnsupportedModelError(
            f"the model's weights are {sorted(f'{d} on {v}' for d, v in kinds)}; engines run float32 or "
            "float64 on one device: use model.float()"
        )
    return kinds.pop()


def job_for(
    plan: Plan, x: Tensor, state: AsyncState | None, seed: int, sample_ids: Tensor, masks: bool = False
) -> Job:
    """Return what is to be run: live parameters are read, dropout masks drawn where `masks`."""
    graph, like = plan.graph, x.detach()
    with torch.autocast(x.device.type, enabled=False):
        live = tuple(population.neuron.read(population, like) for population in graph.populations)
        none = (None,) * len(graph.projections)
        source_scale, target_scale = dropout_masks(graph, x) if masks else (none, none)
        if state is None:
            standing = Standing(
                tuple(
                    population.neuron.rest(own, x.shape[1], like)
                    for population, own in zip(graph.populations, live, strict=True)
                ),
                like.new_zeros(()).expand(x.shape[1], graph.size),
                PendingEvents.none(like),
            )
        else:
            standing = state.standing
        return Job(
            engine=plan.engine,
            graph=graph,
            execution=plan.execution,
            parameters=collect(graph, like),
            x=x,
            source_scale=source_scale,
            target_scale=target_scale,
            live=live,
            seed=seed,
            sample_ids=sample_ids.to(x.device),
            timestep=0 if state is None else state.timestep,
            standing=standing,
            shown=(graph.output,),
        )


def _run(rule: Rule, job: Job) -> Trajectory:
    with torch.autocast(job.x.device.type, enabled=False):
        return rule.run(job)


def _shaped(graph: Graph, name: str, x: Tensor) -> Tensor:
    """Return a population's results (T, B, size) in the source model's shape, (T, B, *shape)."""
    population = graph.populations[graph.index[name]]
    ordered = from_units(x, population.grid)
    return ordered if ordered.shape[2:] == population.shape else ordered.unflatten(2, population.shape)
