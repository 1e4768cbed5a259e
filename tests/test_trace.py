"""Traces: what they say, and that they say what the run did. The 2-3-2 network is that of `test_semantics`."""

import pytest
import torch
from networks import Recipe, frames, network
from test_semantics import COMPETING, graph

from snn_async.errors import InputError

MOMENTUM = """\
sample 0 (id 0, seed 0): momentum, F = 1, stop quiescent, leftover drop, input prioritized, engine {}
t  step  evaluated  delivered    fired        pending
0     0  hidden*    input[0]     hidden[0-2]  hidden[0-2]
      1  output*    hidden[2]    -            hidden[0 1]
      2  output     hidden[1]    output[1]    hidden[0]
      3  output     hidden[0]    -            -
1     0  hidden*    -            -            -
2     0  hidden*    input[0x-2]  -            -
* its turn: bias added, all evaluated"""

QUEUED = """\
sample 0 (id 0, seed 0): fifo, F = 2, stop after(3), leftover carry, input queued, engine {}
t  step  evaluated       delivered           fired        pending
0     0  -               -                   -            input[0]
      1  hidden*         input[0]            hidden[0-2]  hidden[0-2]
      2  output*         hidden[0 1]         -            hidden[2] carried
1     0  -               -                   -            hidden[2] input[0]
      1  hidden* output  hidden[2] input[0]  hidden[0-2]  hidden[0-2]
      2  output*         hidden[0 1]         -            hidden[2] carried
* its turn: bias added, all evaluated"""

LAYERED = """\
sample 0 (id 0, seed 0): layered, stop quiescent, engine {}
t  step  evaluated  delivered    fired        pending
0     0  hidden*    input[0]     hidden[0-2]  hidden[0-2]
      1  output*    hidden[0-2]  -            -
1     0  hidden*    -            -            -
2     0  hidden*    input[0x-2]  -            -
* its turn: bias added, all evaluated"""

OPTIONS = [
    dict(scheduler="random", forward_group_size=2),
    dict(scheduler="random", forward_group_size=3, input="queued", leftover="carry", stop="after(2)"),
    dict(scheduler="momentum", momentum_noise=0.5, refractory="off", stop="output(1)"),
    dict(scheduler="layered"),
]
FRAMES = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]], dtype=torch.float64).unsqueeze(1)


def test_the_tables_followed_by_hand(engine):
    net = network(graph(COMPETING), engine, scheduler="momentum", forward_group_size=1)
    assert str(net.trace(FRAMES)) == MOMENTUM.format(engine.name)
    assert str(net.trace(FRAMES, layered=True)) == LAYERED.format(engine.name)
    queued = dict(scheduler="fifo", forward_group_size=2, stop="after(3)", leftover="carry", input="queued")
    assert str(network(graph(COMPETING), engine, **queued).trace(FRAMES[[0, 0]])) == QUEUED.format(
        engine.name
    )


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o["scheduler"])
def test_a_trace_is_what_the_sample_does_in_its_batch_whatever_the_engine(option, engine):
    recipe = Recipe((6, 5, 4, 3), ("subtract",) * 3, skips=((-1, 1), (0, 2)), dropout=("source", "target"))
    x, ids, built = frames(recipe.graph(), 4, 5, recipe.seed), [3, 1, 4, 1, 5], recipe.graph()
    nets = [network(built, engine, seed=9, **option) for engine in ("reference", engine)]
    state = torch.get_rng_state()
    rows, again = (net.train().trace(x, sample=2, sample_ids=ids).rows for net in nets)
    assert rows == again and torch.equal(state, torch.get_rng_state())

    done = nets[0].eval().run(x, sample_ids=ids).activity
    for t, steps in enumerate(done.forward_steps[:, 2].tolist()):
        here = [row for row in rows if row.timestep == t]
        assert [row.step for row in here] == list(range(steps))
        for name, counts in done.spikes.items():
            assert sum(event.population == name for row in here for event in row.fired) == counts[t, 2]
    fan_out = {source: sum(p.fan_out for p in built.out_of(source)) for source in ("input", *built.index)}
    if option["scheduler"] != "layered":
        operations = sum(fan_out[event.population] for row in rows for event in row.delivered)
        assert operations == done.synaptic_operations[:, 2].sum()
        for before, row in zip(rows[:-1], rows[1:], strict=True):
            if row.step > 0:
                assert len(row.delivered) <= nets[0].execution.forward_group_size
                assert set(row.delivered) <= set(before.pending)


def test_a_layered_trace_delivers_a_spike_to_each_target_at_that_ones_step():
    recipe = Recipe((4, 3, 3, 2), ("value",) * 3, skips=((0, 2),), seed=1)
    x = torch.ones(1, 1, 4, dtype=torch.float64)
    first, second, last = network(recipe.graph(), "numba", scheduler="layered").trace(x).rows
    assert first.fired and first.pending == second.delivered == first.fired
    assert second.pending == last.delivered == first.fired + second.fired and not last.pending


def test_a_sample_that_is_not_there():
    net = network(graph(COMPETING), "reference")
    for sample in (1, -1, 0.0):
        with pytest.raises(InputError, match=r"not one of the batch's 1; choose from 0 to 0"):
            net.trace(FRAMES, sample=sample)


def test_many_inputs_are_abbreviated():
    recipe = Recipe((60, 3), ("value",))
    x = torch.zeros(1, 1, 60, dtype=torch.float64)
    x[..., ::2], x[..., 0] = 1, 0.25
    row = network(recipe.graph(), "reference").trace(x)
    assert "input[0x0.25 2 4 6 8 10 12 14 ... 30 in all]" in str(row)
