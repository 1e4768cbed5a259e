"""`asynchronize`: a source model in, a network without layer synchronization out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from snn_async import checks
from snn_async.capture import Blueprint, check_settings, check_unchanged, read_model, settings_of
from snn_async.engines.choice import check_backend
from snn_async.engines.contract import Engine, Execution, PendingEvents, Start
from snn_async.errors import CheckpointError, InputError, OptionError, UnsupportedModelError
from snn_async.graph import Graph
from snn_async.graph.grids import from_units
from snn_async.learning.unlayered import DIFFERENTIABLE, Job, UnlayeredBackprop
from snn_async.neurons import Refractory
from snn_async.preparing import Preparation, Prepared, make_execution
from snn_async.results import AsyncRun, AsyncState, Record, activity_of, check_state, state_of
from snn_async.schedulers import Layered, Scheduler, make_scheduler
from snn_async.stopping import Quiescent, StopRule, make_stop_rule
from snn_async.trace import Trace, trace_sample
from snn_async.values import collect

__all__ = ["AsyncNetwork", "asynchronize", "make_execution"]


class AsyncNetwork(nn.Module):
    """A source model run without layer synchronization. Make one with `asynchronize`.

    Args:
        graph, engine, execution: how the model is run; None if they follow from the input's shape.
        preparation: makes them for an input's shape; None if there is one graph only.

    Attributes:
        model: the source model; its parameters and train/eval mode are this network's.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph | None,
        engine: Engine | None,
        execution: Execution | None,
        seed: int,
        preparation: Preparation | None = None,
        blueprint: Blueprint | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.seed = seed
        self._blueprint = blueprint
        self._settings = settings_of(model)
        self._modes = {_modes(model)}  # in which the model is known to compute what was read
        self._preparation = preparation
        self._by_shape: dict[tuple[int, ...], Prepared] = {}  # in the order in which they were made
        self._fixed: Prepared | None = None
        if graph is not None:
            assert engine is not None and execution is not None
            first = Prepared(graph, engine, execution)
            if preparation is None:
                self._fixed = first
            else:
                self._by_shape[graph.input_shape] = first
        self.training = model.training

    @property
    def graph(self) -> Graph:
        """Populations, junctions and projections: those for `input_shape`, else for the first input that was run.

        Raises:
            InputError: before any run of a model whose sizes follow from its input only.
        """
        return self._shown().graph

    @property
    def execution(self) -> Execution:
        """The checked options for `graph`; InputError as for `graph`."""
        return self._shown().execution

    @property
    def backend(self) -> str:
        """Name of the engine that runs `graph`; InputError as for `graph`."""
        return self._shown().engine.name

    def forward(self, x: Tensor) -> Tensor:
        """Return output spike counts (T, B, *output) for x (T, B, ...), differentiable.

        Where the source model returns potentials and no spikes (a readout: SpikingJelly's non-spiking nodes, a
        snnTorch module that returns `mem` only, a model that ends in a Linear), these are the output's potentials, of a
        Linear its currents in every timestep; `net.graph.reads` says which.
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
            Spikes and potentials, differentiable by unlayered backprop (docs/design.md, section 5), exact counts,
            the state to continue from. `backward` raises GradientError if a surrogate's slope is not finite.

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

        Arguments, result and errors are those of `run`; no spike is left over, and no schedule is drawn. BatchNorm uses
        its running statistics here too, as the model does in `eval()`; to train with a batch's statistics, train the
        source model itself.
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
        graph, engine, execution = self._prepared_for(x)
        flat = checks.check_input(x, graph, *self.check_runnable(graph, engine))
        if not flat.isfinite().all():
            raise checks.not_finite(flat.detach().numpy())
        sample = checks.check_sample(sample, flat.shape[1])
        ids = checks.check_sample_ids(sample_ids, flat.shape[1])[sample : sample + 1]
        start, _ = self._start(graph, 1, None, self.seed if seed is None else seed, torch.from_numpy(ids))
        execution = _layered(execution) if layered else execution
        return trace_sample(engine, graph, execution, flat[:, sample : sample + 1], start, sample)

    def describe(self) -> str:
        """Return `graph`, the execution options and the engine as text; InputError as for `graph`."""
        e = self.execution
        size = "all" if e.forward_group_size is None else e.forward_group_size
        options = (
            f"scheduler {e.scheduler}, F = {size}, stop {e.stop}, leftover {e.leftover}, input {e.input}"
        )
        return f"{self.graph.describe()}\n{options}\nengine {self.backend}"

    def extra_repr(self) -> str:
        if self._fixed is None and not self._by_shape:
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

    def _shown(self) -> Prepared:
        if self._fixed is not None:
            return self._fixed
        if not self._by_shape:
            raise InputError(
                "the model's sizes follow from its input only, and none was given yet; call "
                "asynchronize(model, input_shape=(C, H, W)) or run it once"
            )
        return next(iter(self._by_shape.values()))

    def _prepared_for(self, x: Tensor) -> Prepared:
        """Return the graph for an input and how it is run, making it at the first input of its shape."""
        checks.check_dimensions(x)
        if self._fixed is not None:
            return self._fixed
        assert self._preparation is not None
        shape = tuple(x.shape[2:])
        if shape not in self._by_shape:
            self._by_shape[shape] = self._preparation.prepare(shape)
        return self._by_shape[shape]

    def _check_model(self, graph: Graph) -> None:
        """Raise UnsupportedModelError if the model is no longer what was read, or is not in the mode it is in."""
        check_settings(self._settings, self.model)
        check_unchanged(graph, self.model)
        modes = _modes(self.model)
        if self._blueprint is not None and modes not in self._modes:
            self._blueprint.check_mode(self.model, graph.input_shape)
            self._modes.add(modes)

    def _run(
        self,
        layered: bool,
        x: Tensor,
        state: AsyncState | None,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
        record: Sequence[str],
    ) -> AsyncRun:
        graph, engine, execution = self._prepared_for(x)
        execution = _layered(execution) if layered else execution
        self._check_model(graph)
        dtype, device = self.check_runnable(graph, engine)
        names = checks.check_record(record, graph)
        flat = checks.check_input(x, graph, dtype, device)
        start, potentials = self._start(graph, flat.shape[1], state, seed, sample_ids)
        if not self.model.training:
            execution = replace(execution, refractory_dropout=(0.0,) * len(graph.populations))
        values = collect(graph, flat, None if potentials is None else potentials.to(flat))
        shown = (graph.output, *names)
        returned = tuple(graph.slices[name] for name in shown)
        job = Job(engine, graph, execution, start, values.source_scale, values.target_scale, returned)
        tensors = [*(getattr(values, name) for name in DIFFERENTIABLE), *values.parameters]
        final, *parts = UnlayeredBackprop.apply(job, *tensors)
        assert job.simulation is not None
        pairs = zip(shown, parts[::2], parts[1::2], strict=True)
        (output, *records) = [
            Record(_shaped(graph, name, spikes), _shaped(graph, name, v)) for name, spikes, v in pairs
        ]
        return AsyncRun(
            spikes=output.spikes,
            potentials=output.potentials,
            state=state_of(graph, job.simulation, start, final),
            activity=activity_of(graph, job.simulation.counts),
            records=dict(zip(names, records, strict=True)),
            reads=graph.reads,
        )

    def check_runnable(self, graph: Graph, engine: Engine) -> tuple[torch.dtype, torch.device]:
        """Return the dtype and device of the model's weights.

        Raises:
            UnsupportedModelError: unless they are one of float32 and float64, on a device the engine runs on.
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
        dtype, device = kinds.pop()
        if device.type != "cpu":
            raise UnsupportedModelError(
                f"the model is on {device}, but engine {engine.name!r} runs on the CPU; use model.cpu()"
            )
        return dtype, device

    def _start(
        self,
        graph: Graph,
        samples: int,
        state: AsyncState | None,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
    ) -> tuple[Start, Tensor | None]:
        size = graph.size
        if state is not None:
            check_state(state, graph, samples)
        if seed is not None:
            seed = checks.check_seed(seed)
        elif state is not None:
            seed = state.seed
        else:
            seed = int(torch.randint(2**62, ())) if self.model.training else self.seed
        if state is None:
            ids = checks.check_sample_ids(sample_ids, samples)
            none = PendingEvents.none(samples)
            return Start(seed, ids, 0, np.zeros((samples, size), dtype=np.int32), none), None
        ids = checks.check_sample_ids(state.sample_ids if sample_ids is None else sample_ids, samples)
        return Start(seed, ids, state.timestep, state.spikes.numpy(), state.pending), state.potentials


def _modes(model: nn.Module) -> tuple[bool, ...]:
    """Return which modules are in training mode."""
    return tuple(module.training for module in model.modules())


def _layered(execution: Execution) -> Execution:
    """Return the same execution with the barrier."""
    return replace(
        execution,
        scheduler=Layered(),
        stop=Quiescent(),
        input="prioritized",
        refractory_dropout=(0.0,) * len(execution.refractory_dropout),
    )


def _shaped(graph: Graph, name: str, x: Tensor) -> Tensor:
    """Return a population's results (T, B, size) in the source model's shape, (T, B, *shape)."""
    population = graph.populations[graph.index[name]]
    ordered = from_units(x, population.grid)
    return ordered if ordered.shape[2:] == population.shape else ordered.unflatten(2, population.shape)


def asynchronize(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    scheduler: str | Scheduler = "momentum",
    forward_group_size: int | None = 8,
    refractory: Refractory | None = None,
    refractory_dropout: float = 0.0,
    stop: str | StopRule = "quiescent",
    leftover: Literal["drop", "carry"] = "drop",
    input: Literal["prioritized", "queued"] = "prioritized",
    momentum_noise: float = 0.0,
    max_forward_steps: int = 100_000,
    batch_norm: Literal["frozen"] = "frozen",
    backend: str = "auto",
    seed: int = 0,
) -> AsyncNetwork:
    """Return `model` as a network in which no layer waits for another; parameters are shared, not copied.

    Args:
        model: an snnTorch or SpikingJelly model that torch.fx can trace, of spiking neurons, Linear, Conv1d and
            Conv2d, BatchNorm, pooling, nearest upsampling, Flatten, Dropout, sums (residual ADD), products of spikes
            (SEW's AND and IAND), recurrent edges, and other layers that are linear: an `nn.Sequential` (nested too), a
            module whose forward is one timestep, or one that loops over a fixed number of equal steps. A model that
            ends in a layer without a neuron returns that layer's currents as potentials.
        input_shape: of one sample, such as (2, 34, 34). Convolutional models get their sizes from it; if None, at the
            first run, which then raises what would be raised here.
        scheduler: "random", "momentum", "fifo", "layered", or an object with the interface of
            `snn_async.schedulers.Scheduler` (engines torch and reference).
        forward_group_size: F, how many pending spikes are delivered per forward step; None for all.
        refractory: within a timestep, a neuron that spiked ignores later currents ("discard"), keeps them
            ("integrate"), or may spike again ("off"). None, the default, takes per neuron what keeps the layered
            limit for its reset: "discard" for a hard reset that acts at once (it forgets the timestep's currents
            anyway), "integrate" for every other (it keeps the surplus). What a neuron that spiked carries to the
            next timestep is then the same as with the barrier, whatever the order of its currents. (With F = None
            any mode equals layered execution.) A drop-in layer's own option comes first.
        refractory_dropout: probability that a spike leaves its neuron able to spike again; in training only.
        stop: when a timestep ends: "quiescent", "output" (first output spike), "output(k)" (k forward steps
            later), "after(n)" forward steps, or a rule from `snn_async.stopping`.
        leftover: what is pending when a timestep ends: "drop" it or "carry" it over.
        input: "prioritized": a timestep's input is delivered at once in forward step 0; "queued": step 0 only
            queues it, and input events compete for the F places like spikes, their amplitude for a potential.
        momentum_noise: with "momentum", adds this times U(0, 1) to the potentials.
        max_forward_steps: per timestep; exceeding it is an error.
        batch_norm: "frozen", the only value: BatchNorm uses its running statistics, in training too.
        backend: "numba", "torch", "reference", or "auto": numba where it can run the graph, else torch (`net.backend`
            says which it chose).
        seed: of the schedule in evaluation; in training it comes from torch's generator.

    Raises:
        OptionError: for an option out of range or unknown.
        InputError: for an `input_shape` that a layer cannot take.
        UnsupportedModelError: for a model, module or parameter that cannot be mapped exactly.
        UnsupportedByEngineError: if the chosen engine cannot run the graph or an option.
    """
    if isinstance(model, AsyncNetwork):
        raise UnsupportedModelError(
            "the model is an AsyncNetwork already; pass its source model, `net.model`"
        )
    if forward_group_size is not None:
        checks.check_count("forward_group_size", forward_group_size)
    checks.check_refractory(refractory, refractory_dropout)
    checks.check_choice("leftover", leftover, ("drop", "carry"))
    checks.check_choice("input", input, ("prioritized", "queued"))
    checks.check_count("max_forward_steps", max_forward_steps)
    checks.check_batch_norm(batch_norm)
    check_backend(backend)
    given = None if input_shape is None else checks.check_input_shape(input_shape)
    seed = checks.check_seed(seed)
    order, rule = make_scheduler(scheduler, momentum_noise), make_stop_rule(stop)
    if isinstance(order, Layered) and leftover == "carry" and not isinstance(rule, Quiescent):
        raise OptionError(
            f"leftover='carry' with scheduler='layered' and stop={stop!r}: behind a barrier a spike may have reached "
            "some targets only; use leftover='drop' or stop='quiescent'"
        )
    blueprint = read_model(model)
    options = {
        "scheduler": order,
        "forward_group_size": forward_group_size,
        "refractory": refractory,
        "refractory_dropout": refractory_dropout,
        "stop": rule,
        "leftover": leftover,
        "input": input,
        "max_forward_steps": max_forward_steps,
    }
    preparation = Preparation(blueprint, backend, options)
    shape = blueprint.shape if given is None else given
    if shape is None:
        return AsyncNetwork(model, None, None, None, seed, preparation, blueprint)
    prepared = preparation.prepare(shape)
    only = blueprint.shape is not None  # its Linears fix the number of inputs
    net = AsyncNetwork(model, *prepared, seed, None if only else preparation, blueprint)
    net.check_runnable(prepared.graph, prepared.engine)
    return net
