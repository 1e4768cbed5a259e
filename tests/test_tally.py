"""What `compare` reports, counted by hand; and what the spike penalty adds to a loss."""

import pytest
import torch
from torch import nn

import snn_async
from lightning_modules import SpikingClassifier
from lightning_modules.compare.tally import Tally
from snn_async import Activity
from snn_async.snntorch import Leaky


def test_a_tally_is_what_one_counts_by_hand():
    # two timesteps of two samples, three classes: sample 0 says class 2 (right), sample 1 class 0 (wrong)
    scores = torch.tensor([[0.0, 0, 2], [1, 0, 0]])
    activity = Activity(
        spikes={"hidden": torch.tensor([[3, 1], [2, 0]]), "out": torch.tensor([[1, 0], [1, 1]])},
        forward_steps=torch.tensor([[4, 2], [3, 5]]),
        first_output_step=torch.tensor([[3, -1], [1, 2]]),
        synaptic_operations=torch.tensor([[10, 20], [30, 40]]),
        neuron_updates=torch.tensor([[5, 5], [5, 5]]),
    )
    tally = Tally()
    tally.add(activity, scores, torch.tensor([2, 1]))
    assert tally.measures() == pytest.approx(
        {
            "samples": 2,
            "accuracy": 1 / 2,
            "spikes": (6 + 3) / 2,
            "spikes_hidden": 6 / 2,
            "spikes_out": 3 / 2,
            "forward_steps": (4 + 2 + 3 + 5) / 4,
            "first_output_step": (3 + 1 + 2) / 3,
            "silent_timesteps": 1 / 4,
            # sample 0 answers in its 4th step, sample 1 in the 3rd step of its second timestep, after 2
            "latency": (4 + (2 + 3)) / 2,
            "synaptic_operations": 100 / 2,
            "neuron_updates": 20 / 2,
        }
    )


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # no trainer here
def test_the_spike_penalty_adds_the_mean_hidden_spikes_per_sample():
    torch.manual_seed(0)
    options = dict(beta=0.5, threshold=0.2, init_hidden=True)
    network = nn.Sequential(nn.Linear(6, 8), Leaky(**options), nn.Linear(8, 3), Leaky(**options))
    batch = (torch.ones(4, 5, 6), torch.zeros(5, dtype=torch.long))
    hidden = snn_async.asynchronize(network, scheduler="fifo").run(batch[0]).activity.spikes["1"].sum() / 5
    free, taxed = (
        SpikingClassifier(network, scheduler="fifo", spike_penalty=penalty).training_step(batch, 0)
        for penalty in (0.0, 0.25)
    )
    assert hidden > 0
    assert (taxed - free).item() == pytest.approx(0.25 * hidden.item())
