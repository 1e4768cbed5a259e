"""The rules of docs/design.md, section 3 on a 2-3-2 network whose every number can be followed by hand.

One input spike lifts the hidden neurons A, B, C to 1.5, 2 and 3 (threshold 1, so all three spike in step 0);
A excites output Y and inhibits Z, B does the opposite, C excites Z a little. Who decides depends on the order.
"""

import numpy as np
import pytest
import torch
from networks import ATan, network
from torch import nn

from snn_async import random_keys
from snn_async.errors import RunawayError
from snn_async.graph import INPUT, Graph, Population, Projection
from snn_async.graph.synapses import Dense
from snn_async.neurons import LinearNeuron, LinearParameters

COMPETING = [[2.0, -2.0, 0.0], [-2.0, 2.0, 0.5]]  # rows Y, Z; columns A, B, C
EXCITING = [[2.0, 2.0, -1.0], [0.0, 0.0, 0.0]]


class Plain(nn.Module):
    def read(self):
        one = torch.ones((), dtype=torch.float64)
        return LinearParameters(leak=one, gain=one, offset=0 * one, threshold=one)


def dense(rows, bias=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return Dense.of(layer, (len(rows[0]), 1, 1))


def graph(output_weights, output_bias=None, reset="value"):
    neuron = LinearNeuron(Plain(), ATan.apply, inclusive=False, reset=reset, parameters=Plain.read)
    return Graph(
        [Population("hidden", 3, neuron), Population("output", 2, neuron)],
        [
            Projection("in", INPUT, "hidden", dense([[1.5, 0.0], [2.0, 0.0], [3.0, 0.0]])),
            Projection("out", "hidden", "output", dense(output_weights, output_bias)),
        ],
        "output",
    )


def run(engine, weights=COMPETING, frames=((1.0, 0.0),), bias=None, reset="value", **options):
    given = dict(scheduler="fifo", forward_group_size=1, refractory="discard") | options
    x = torch.tensor(frames, dtype=torch.float64).unsqueeze(1)
    return network(graph(weights, bias, reset), engine, **given).run(x)


@pytest.mark.parametrize(
    "options, spikes, potentials, steps, first, updates",
    [
        # A, then B, then C: Y fires at A (2 > 1) and ignores B; Z = -2 + 2 + 0.5
        (dict(scheduler="fifo"), [1, 0], [0, 0.5], 4, 1, 3 + 2 + 1 + 1),
        # C (3), then B (2), then A (1.5): Z = 0.5 + 2 fires, Y = -2 + 2
        (dict(scheduler="momentum"), [0, 1], [0, 0], 4, 2, 3 + 2 + 2 + 1),
        # A and B together cancel, then C
        (dict(scheduler="fifo", forward_group_size=2), [0, 0], [0, 0.5], 3, -1, 3 + 2 + 2),
        (dict(scheduler="fifo", forward_group_size=None), [0, 0], [0, 0.5], 2, -1, 3 + 2),
        (dict(scheduler="layered"), [0, 0], [0, 0.5], 2, -1, 3 + 2),
    ],
    ids=["fifo", "momentum", "pairs", "all", "layered"],
)
def test_the_order_of_delivery_decides_who_fires(engine, options, spikes, potentials, steps, first, updates):
    result = run(engine, **options)
    assert result.spikes[0, 0].tolist() == spikes
    assert result.potentials[0, 0].tolist() == potentials
    assert result.activity.forward_steps.item() == steps
    assert result.activity.first_output_step.item() == first
    assert result.activity.neuron_updates.item() == updates
    assert result.activity.synaptic_operations.item() == 1 * 3 + 3 * 2
    assert result.activity.spikes["hidden"].item() == 3


def order_by(priority):
    """Deliver A, B and C (source indices 2, 3, 4) one by one, lowest priority(step, waiting) first."""
    waiting, order = [2, 3, 4], []
    for step in (1, 2, 3):
        drawn = priority(step, np.array(waiting))
        order.append(waiting.pop(int(drawn.argmin())))
    return order


def winner(order):
    """Y fires if A comes before B, else Z (C decides nothing)."""
    return [1, 0] if order.index(2) < order.index(3) else [0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_random_follows_the_counter_based_keys_of_every_timestep(engine, seed):
    # "after(2)" delivers one hidden spike per timestep: Y fires if it is A, Z if it is B
    x = torch.tensor([[[1.0, 0.0]]] * 6, dtype=torch.float64)
    options = dict(scheduler="random", forward_group_size=1, refractory="discard", stop="after(2)")
    net = network(graph([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), engine, **options)
    first = net.run(x[:2], seed=seed, sample_ids=[7])
    second = net.run(x[2:], state=first.state)
    for t, spikes in enumerate(torch.cat((first.spikes, second.spikes))[:, 0].tolist()):
        drawn = random_keys.uniform(seed, 7, t, random_keys.ORDER, 1, np.array([2, 3, 4]))
        assert spikes == [[1, 0], [0, 1], [0, 0]][int(drawn.argmin())]


def test_momentum_noise_is_added_to_the_potentials(engine):
    potentials = {2: 1.5, 3: 2.0, 4: 3.0}

    def noisy(step, waiting, seed):
        noise = random_keys.uniform(seed, 0, 0, random_keys.ORDER, step, waiting)
        return -np.array([potentials[source] for source in waiting.tolist()]) - 2.0 * noise

    outcomes = []
    for seed in range(8):
        x = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
        options = dict(scheduler="momentum", momentum_noise=2.0, forward_group_size=1, refractory="discard")
        spikes = network(graph(COMPETING), engine, **options).run(x, seed=seed).spikes[0, 0].tolist()
        assert spikes == winner(order_by(lambda step, waiting, seed=seed: noisy(step, waiting, seed)))
        outcomes.append(tuple(spikes))
    assert len(set(outcomes)) == 2


def test_refractory_dropout_draws_its_own_numbers(engine):
    x = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    options = dict(scheduler="fifo", forward_group_size=1, refractory="discard", refractory_dropout=0.5)
    net, outcomes = network(graph(EXCITING), engine, **options).train(), []
    for seed in range(8):
        # Y (source 2 + 3) fires at A in step 1 and again at B if it stayed able
        able = random_keys.uniform(seed, 0, 0, random_keys.REFRACTORY_DROPOUT, 1, np.array([5]))[0] < 0.5
        outcomes.append(net.run(x, seed=seed).spikes[0, 0, 0].item())
        assert outcomes[-1] == (2 if able else 1)
    assert len(set(outcomes)) == 2


@pytest.mark.parametrize(
    "refractory, spikes, potential",
    [
        ("discard", 1, 0.0),  # fires at A; B and C are ignored
        ("integrate", 1, 1.0),  # fires at A; 2 - 1 is kept
        ("off", 2, -1.0),  # fires at A and at B; C is kept
    ],
)
def test_refractory_modes(engine, refractory, spikes, potential):
    result = run(engine, EXCITING, refractory=refractory)
    assert (result.spikes[0, 0, 0].item(), result.potentials[0, 0, 0].item()) == (spikes, potential)


def test_refractory_dropout_acts_in_training_only(engine):
    x = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    options = dict(scheduler="fifo", forward_group_size=1, refractory="discard", refractory_dropout=1.0)
    net = network(graph(EXCITING), engine, **options)
    assert net.train()(x)[0, 0, 0] == 2
    assert net.eval()(x)[0, 0, 0] == 1


@pytest.mark.parametrize(
    "stop, steps, spikes, potentials",
    [
        ("quiescent", 4, [1, 0], [0, 0.5]),
        ("output", 2, [1, 0], [0, -2]),  # Y fired at A; B and C are dropped
        ("output(1)", 3, [1, 0], [0, 0]),
        ("after(1)", 1, [0, 0], [0, 0]),
        ("after(2)", 2, [1, 0], [0, -2]),
        ("after(9)", 4, [1, 0], [0, 0.5]),
    ],
)
def test_stop_rules(engine, stop, steps, spikes, potentials):
    result = run(engine, stop=stop)
    assert result.activity.forward_steps.item() == steps
    assert result.spikes[0, 0].tolist() == spikes
    assert result.potentials[0, 0].tolist() == potentials


def test_leftover_spikes_are_dropped_or_carried_to_the_next_timestep(engine):
    frames = ((1.0, 0.0), (0.0, 0.0))
    dropped = run(engine, frames=frames, stop="after(2)", leftover="drop")
    assert dropped.activity.forward_steps[:, 0].tolist() == [2, 1]
    carried = run(engine, frames=frames, stop="after(2)", leftover="carry")
    assert carried.activity.forward_steps[:, 0].tolist() == [2, 2]
    assert carried.potentials[:, 0].tolist() == [[0, -2], [-2, 0]]  # B arrives a timestep late
    assert carried.state.pending.source.tolist() == [2 + 2]  # C still waits


def test_queued_inputs_compete_for_the_places(engine):
    result = run(engine, frames=((1.0, -1.0),), input="queued")
    # step 0 queues two inputs, step 1 delivers the first: A, B, C fire and line up behind the second
    assert result.activity.forward_steps.item() == 1 + 2 + 3
    assert result.activity.first_output_step.item() == 3
    assert result.activity.synaptic_operations.item() == 2 * 3 + 3 * 2


def test_bias_is_added_once_at_the_turn_of_its_population(engine):
    silent = run(engine, frames=((0.0, 0.0),))
    assert silent.activity.forward_steps.item() == 1  # a turn that can change nothing is no forward step
    assert silent.activity.neuron_updates.item() == 3 + 2  # but every neuron is evaluated
    biased = run(engine, frames=((0.0, 0.0),), bias=[1.5, 0.25])
    assert biased.spikes[0, 0].tolist() == [1, 0]
    assert biased.potentials[0, 0].tolist() == [0, 0.25]
    assert biased.activity.forward_steps.item() == 2
    several_steps = run(engine, bias=[0.0, 0.25])
    assert several_steps.potentials[0, 0].tolist() == [0, 0.75]


def test_a_lone_inhibition_is_delivered(engine):
    result = run(engine, weights=[[-2.0, -2.0, -2.0], [0.0, 0.0, 0.0]])
    assert result.potentials[0, 0, 0].item() == -6


def test_a_potential_above_threshold_fires_at_its_turn_without_input(engine):
    result = run(engine, EXCITING, frames=((1.0, 0.0), (0.0, 0.0)), reset="none", refractory="integrate")
    assert result.spikes[:, 0, 0].tolist() == [1, 1]


def test_a_timestep_that_does_not_end_is_an_error(engine):
    with pytest.raises(RunawayError, match="max_forward_steps=2"):
        run(engine, max_forward_steps=2)
