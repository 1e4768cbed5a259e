"""Totals of one model under one execution, summed over batches."""

from collections import Counter

from torch import Tensor

from snn_async import Activity


class Tally:
    """Adds up runs; `measures` returns their averages."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()

    def add(self, activity: Activity, scores: Tensor, y: Tensor) -> None:
        """Count one run that gave scores (B, classes) to samples of the classes y (B,)."""
        first, steps = activity.first_output_step, activity.forward_steps
        fired = first >= 0
        answered = fired.any(0)
        # Forward steps of the whole sample up to and including that of its first output spike.
        until = (steps.cumsum(0) - steps + first + 1).gather(0, fired.int().argmax(0, keepdim=True))[0]
        self.sums.update(
            samples=len(y),
            timesteps=steps.numel(),
            correct=int((scores.argmax(1) == y).sum()),
            forward_steps=int(steps.sum()),
            fired=int(fired.sum()),
            first_output_step=int(first[fired].sum()),
            answered=int(answered.sum()),
            latency=int(until[answered].sum()),
            synaptic_operations=int(activity.synaptic_operations.sum()),
            neuron_updates=int(activity.neuron_updates.sum()),
        )
        self.sums.update({f"spikes_{name}": int(spikes.sum()) for name, spikes in activity.spikes.items()})

    def measures(self) -> dict[str, float]:
        """Return the columns of results.csv, see `results.MEASURES`; NaN where nothing can be averaged."""
        sums = self.sums
        populations = {
            name: _mean(sums[name], sums["samples"]) for name in sums if name.startswith("spikes_")
        }
        return {
            "samples": sums["samples"],
            "accuracy": _mean(sums["correct"], sums["samples"]),
            "spikes": sum(populations.values()),
            "forward_steps": _mean(sums["forward_steps"], sums["timesteps"]),
            "first_output_step": _mean(sums["first_output_step"], sums["fired"]),
            "silent_timesteps": 1 - _mean(sums["fired"], sums["timesteps"]),
            "latency": _mean(sums["latency"], sums["answered"]),
            "synaptic_operations": _mean(sums["synaptic_operations"], sums["samples"]),
            "neuron_updates": _mean(sums["neuron_updates"], sums["samples"]),
        } | populations


def _mean(total: int, count: int) -> float:
    return total / count if count else float("nan")
