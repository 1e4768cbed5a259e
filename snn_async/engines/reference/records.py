"""What the samples did, as the tensors of the contract."""

import torch
from torch import Tensor

from snn_async.engines.contract import Counts, PendingEvents, Simulation
from snn_async.engines.event_log import EventLog
from snn_async.engines.reference.simulate import SampleRun
from snn_async.engines.reference.steps import Event


def simulation_of(runs: list[SampleRun], keep_log: bool) -> Simulation:
    """Return the result of a timestep, given every sample's."""
    return Simulation(
        spikes=_stack(runs, "spikes"),
        current=_stack(runs, "current"),
        potential=_stack(runs, "potential"),
        counts=Counts(
            spikes=_stack(runs, "spike_counts"),
            forward_steps=_stack(runs, "step"),
            first_output_step=_stack(runs, "first_output"),
            synaptic_operations=_stack(runs, "synaptic_operations"),
            neuron_updates=_stack(runs, "neuron_updates"),
        ),
        pending=_pending(runs),
        log=_log(runs) if keep_log else None,
    )


def _pending(runs: list[SampleRun]) -> PendingEvents:
    left = [event for run in runs for event in run.pending]
    return PendingEvents(
        sample=torch.tensor([b for b, run in enumerate(runs) for _ in run.pending], dtype=torch.int64),
        source=_integers(left, "source"),
        amplitude=_floats(left, "amplitude", runs[0].base.dtype),
        potential=_floats(left, "potential", torch.float64),
        timestep=_integers(left, "timestep"),
        step=_integers(left, "step"),
    )


def _log(runs: list[SampleRun]) -> EventLog:
    events, dtype = [event for run in runs for event in run.emissions], runs[0].base.dtype
    offsets = torch.tensor([0, *(len(run.emissions) for run in runs)]).cumsum(0)
    firsts = list(zip(offsets.tolist(), runs, strict=False))
    deliveries = [(first + row, k, step) for first, run in firsts for row, k, step in run.deliveries]
    event, projection, step = torch.tensor(deliveries, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return EventLog(
        offsets=offsets,
        carried=_stack(runs, "carried"),
        source=_integers(events, "source"),
        amplitude=_floats(events, "amplitude", dtype),
        step=_integers(events, "step"),
        potential=_floats(events, "potential", dtype),
        current=_floats(events, "current", dtype),
        cell=_integers(events, "cell"),
        event=event,
        projection=projection,
        step_of_delivery=step,
        left=torch.tensor(
            [first + left.row for first, run in firsts for left in run.pending], dtype=torch.int64
        ),
        silent_step=_stack(runs, "silent_step"),
        silent_potential=_stack(runs, "silent_potential"),
        turn_step=_stack(runs, "turn_step"),
    )


def _stack(runs: list[SampleRun], name: str) -> Tensor:
    return torch.stack([torch.as_tensor(getattr(run, name)) for run in runs])


def _integers(events: list[Event], name: str) -> Tensor:
    return torch.tensor([getattr(event, name) for event in events], dtype=torch.int64)


def _floats(events: list[Event], name: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor([getattr(event, name) for event in events], dtype=dtype)
