"""`asynchronize`: a source model in, a network without layer synchronization out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from snn_async import checks
from snn_async.adapters import build_graph, check_unchanged
from snn_async.engines import choose_engine
from snn_async.engines.contract import Engine, Execution, PendingEvents, Start
from snn_async.errors import CheckpointError, OptionError, UnsupportedModelError
from snn_async.graph import Graph
from snn_async.learning.unlayered import DIFFERENTIABLE, Job, UnlayeredBackprop
from snn_async.neurons import Refractory
from snn_async.results import AsyncRun, AsyncState, Record, activity_of, check_state, state_of
from snn_async.schedulers import Layered, Scheduler, make_scheduler
from snn_async.stopping import Output, Quiescent, StopRule, make_stop_rule
from snn_async.trace import Trace, trace_sample
from snn_async.values import collect


class AsyncNetwork(nn.Module):
    """A source model run without layer synchronization. Make one with `asynchronize`.

    Attributes:
        model: the source model; its parameters and train/eval mode are this network's.
        graph: its populations and projections.
        backend: name of the engine that runs it.
        execution: the checked options.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, engine: Engine, execution: Execution, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.graph = graph
        self.execution = execution
        self.seed = seed
        self._engine = engine
        self.training = model.training

    @property
    def backend(self) -> str:
        return self._engine.name

    def forward(self, x: Tensor) -> Tensor:
        """Return output spike counts (T, B, *output) for x (T, B, ...), differentiable.

        Where the source model returns potentials and no spikes (a readout: SpikingJelly's non-spiking nodes, a
        snnTorch module that returns `mem` only), these are the output's potentials; `net.graph.reads` says which.
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
        return self._run(self.execution, x, state, seed, sample_ids, record)

    def layered(
        self,
        x: Tensor,
        state: AsyncState | None = None,
        seed: int | None = None,
        sample_ids: Sequence[int] | Tensor | None = None,
        record: Sequence[str] = (),
    ) -> AsyncRun:
        """Run the same parameters with the barrier: equal to the source model's own run.

        Arguments, result and errors are those of `run`; no spike is left over, and no schedule is drawn.
        """
        return self._run(self._layered_execution(), x, state, seed, sample_ids, record)

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
        flat = checks.check_input(x, self.graph, *self.check_runnable())
        if not flat.isfinite().all():
            raise checks.not_finite(flat.detach().numpy())
        sample = checks.check_sample(sample, flat.shape[1])
        ids = checks.check_sample_ids(sample_ids, flat.shape[1])[sample : sample + 1]
        start, _ = self._start(1, None, self.seed if seed is None else seed, torch.from_numpy(ids))
        execution = self._layered_execution() if layered else self.execution
        return trace_sample(self._engine, self.graph, execution, flat[:, sample : sample + 1], start, sample)

    def describe(self) -> str:
        """Return the graph, the execution options and the engine as text."""
        e = self.execution
        size = "all" if e.forward_group_size is None else e.forward_group_size
        options = (
            f"scheduler {e.scheduler}, F = {size}, stop {e.stop}, leftover {e.leftover}, input {e.input}"
        )
        return f"{self.graph.describe()}\n{options}\nengine {self.backend}"

    def extra_repr(self) -> str:
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

    def _layered_execution(self) -> Execution:
        return replace(
            self.execution,
            scheduler=Layered(),
            stop=Quiescent(),
            input="prioritized",
            refractory_dropout=(0.0,) * len(self.graph.populations),
        )

    def _run(
        self,
        execution: Execution,
        x: Tensor,
        state: AsyncState | None,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
        record: Sequence[str],
    ) -> AsyncRun:
        graph = self.graph
        check_unchanged(graph, self.model)
        dtype, device = self.check_runnable()
        names = checks.check_record(record, graph)
        flat = checks.check_input(x, graph, dtype, device)
        start, potentials = self._start(flat.shape[1], state, seed, sample_ids)
        if not self.model.training:
            execution = replace(execution, refractory_dropout=(0.0,) * len(graph.populations))
        values = collect(graph, flat, None if potentials is None else potentials.to(flat))
        returned = tuple(graph.slices[name] for name in (graph.output, *names))
        job = Job(self._engine, graph, execution, start, values.source_scale, values.target_scale, returned)
        tensors = [getattr(values, name) for name in DIFFERENTIABLE]
        final, *parts = UnlayeredBackprop.apply(job, *tensors)
        assert job.simulation is not None
        (output, *records) = [Record(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return AsyncRun(
            spikes=output.spikes,
            potentials=output.potentials,
            state=state_of(graph, job.simulation, start, final),
            activity=activity_of(graph, job.simulation.counts),
            records=dict(zip(names, records, strict=True)),
            reads=graph.reads,
        )

    def check_runnable(self) -> tuple[torch.dtype, torch.device]:
        """Return the dtype and device of the model's weights.

        Raises:
            UnsupportedModelError: unless they are one of float32 and float64, on a device the engine runs on.
        """
        weights = [layer.weight for projection in self.graph.projections for layer in projection.layers]
        kinds = {(weight.dtype, weight.device) for weight in weights}
        if len(kinds) != 1 or weights[0].dtype not in (torch.float32, torch.float64):
            raise UnsupportedModelError(
                f"the model's weights are {sorted(f'{d} on {v}' for d, v in kinds)}; engines run float32 or "
                "float64 on one device: use model.float()"
            )
        dtype, device = kinds.pop()
        if device.type != "cpu":
            raise UnsupportedModelError(
                f"the model is on {device}, but engine {self.backend!r} runs on the CPU; use model.cpu()"
            )
        return dtype, device

    def _start(
        self,
        samples: int,
        state: AsyncState | None,
        seed: int | None,
        sample_ids: Sequence[int] | Tensor | None,
    ) -> tuple[Start, Tensor | None]:
        size = self.graph.size
        if state is not None:
            check_state(state, self.graph, samples)
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


def make_execution(
    graph: Graph,
    *,
    scheduler: Scheduler,
    forward_group_size: int | None,
    refractory: Refractory | None,
    refractory_dropout: float,
    stop: StopRule,
    leftover: Literal["drop", "carry"],
    input: Literal["prioritized", "queued"],
    max_forward_steps: int,
) -> Execution:
    """Return the execution of `graph` under checked options; a layer's own come before the network's.

    Raises:
        OptionError: for options that contradict each other.
    """
    neurons = [population.neuron for population in graph.populations]
    modes = tuple(n.refractory or refractory or n.default_refractory for n in neurons)
    rates = tuple(
        float(refractory_dropout if n.refractory_dropout is None else n.refractory_dropout) for n in neurons
    )
    for population, mode, rate in zip(graph.populations, modes, rates, strict=True):
        if mode == "off" and rate > 0:
            raise OptionError(
                f"refractory_dropout={rate} has no effect on {population.name!r}, whose refractory is 'off'; "
                "leave one of them out"
            )
    readout = graph.populations[graph.index[graph.output]]
    if isinstance(stop, Output) and not readout.neuron.spiking:
        raise OptionError(
            f"stop={stop} waits for a spike of {readout.name!r}, which never spikes; use 'quiescent' or 'after(n)'"
        )
    return Execution(
        scheduler=scheduler,
        forward_group_size=forward_group_size,
        refractory=modes,
        refractory_dropout=rates,
        stop=stop,
        leftover=leftover,
        input=input,
        max_forward_steps=max_forward_steps,
    )


def asynchronize(
    model: nn.Module,
    *,
    scheduler: str | Scheduler = "momentum",
    forward_group_size: int | None = 8,
    refractory: Refractory | None = None,
    refractory_dropout: float = 0.0,
    stop: str | StopRule = "quiescent",
    leftover: Literal["drop", "carry"] = "drop",
    input: Literal["prioritized", "queued"] = "prioritized",
    momentum_noise: float = 0.0,
    max_forward_steps: int = 100_000,
    backend: str = "auto",
    seed: int = 0,
) -> AsyncNetwork:
    """Return `model` as a network in which no layer waits for another; parameters are shared, not copied.

    Args:
        model: an snnTorch or SpikingJelly model that torch.fx can trace, of Flatten, Linear, Dropout, Identity
            and spiking neurons: an `nn.Sequential` (nested too), a module whose forward is one timestep, or
            one that loops over a fixed number of equal steps.
        scheduler: "random", "momentum", "fifo", "layered", or an object with the interface of
            `snn_async.schedulers.Scheduler` (reference engine only).
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
        backend: "reference", "numba", or "auto" (`net.backend` says which it chose).
        seed: of the schedule in evaluation; in training it comes from torch's generator.

    Raises:
        OptionError: for an option out of range or unknown.
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
    seed = checks.check_seed(seed)
    order, rule = make_scheduler(scheduler, momentum_noise), make_stop_rule(stop)
    if isinstance(order, Layered) and leftover == "carry" and not isinstance(rule, Quiescent):
        raise OptionError(
            f"leftover='carry' with scheduler='layered' and stop={stop!r}: behind a barrier a spike may have reached "
            "some targets only; use leftover='drop' or stop='quiescent'"
        )
    graph = build_graph(model)
    execution = make_execution(
        graph,
        scheduler=order,
        forward_group_size=forward_group_size,
        refractory=refractory,
        refractory_dropout=refractory_dropout,
        stop=rule,
        leftover=leftover,
        input=input,
        max_forward_steps=max_forward_steps,
    )
    net = AsyncNetwork(model, graph, choose_engine(backend, graph, execution), execution, seed)
    net.check_runnable()
    return net
