"""Pooling, residual joins, convolutions and recurrent edges on networks whose numbers can be followed by hand.

Every population is one row of integrating neurons that fire above 1 and are reset to 0 at once. The input makes neurons
of `A` spike in step 0, and F = 1 under "fifo" then delivers their spikes one by one.
"""

import pytest
import torch
from networks import ATan, network
from torch import nn

from snn_async.errors import OptionError, UnsupportedByEngineError
from snn_async.graph import INPUT, Graph, Junction, Population, Projection
from snn_async.graph.live import Computed, Held
from snn_async.graph.synapses import Convolution, Dense, OneToOne
from snn_async.graph.windows import pooling
from snn_async.neurons import LinearNeuron, LinearParameters


class Plain(nn.Module):
    def read(self):
        one = torch.ones((), dtype=torch.float64)
        return LinearParameters(leak=one, gain=one, offset=0 * one, threshold=one)


NEURON = LinearNeuron(Plain(), ATan.apply, inclusive=False, reset="value", parameters=Plain.read)
SILENT = LinearNeuron(
    Plain(), torch.zeros_like, inclusive=False, reset="none", spiking=False, parameters=Plain.read
)


def dense(rows, source=None):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return Dense.of(layer, source or (len(rows[0]), 1, 1))


def conv(grid, kernel):
    layer = nn.Conv1d(1, 1, len(kernel), padding=len(kernel) // 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[kernel]]))
    return Convolution.of(layer, grid)


def edge(source, target, synapses, **options):
    return Projection(f"{source}->{target}", source, target, synapses, **options)


def run(engine, graph, *frames, **options):
    x = torch.tensor(frames, dtype=torch.float64).reshape(len(frames), 1, graph.input_size)
    return network(graph, engine, **dict(scheduler="fifo", forward_group_size=1) | options).run(x)


def pool(cells, windows):
    """A max junction over pairs of a row of `cells`."""
    return Junction("pool", "max", (1, 1, windows), cells, pooling(1, cells[2], (1, 2), (1, 2), (0, 0)))


def test_a_window_passes_its_first_spike_of_the_timestep_and_starts_anew_in_the_next(engine):
    """Neurons 0 and 1 share the first window, 2 is alone in the second; each spike is one forward step."""
    row, pairs = (1, 1, 4), (1, 1, 2)
    graph = Graph(
        [Population("A", 4, NEURON, row, row), Population("out", 1, SILENT)],
        [
            edge(INPUT, "A", OneToOne(row)),
            edge("A", "pool", OneToOne(row)),
            edge("pool", "out", dense([[10.0, 100.0]], pairs)),
        ],
        "out",
        junctions=[pool(row, 2)],
    )
    result = run(engine, graph, [2, 2, 2, 0], [0, 2, 0, 0])
    assert result.potentials.flatten().tolist() == [110, 120]
    assert result.activity.forward_steps.flatten().tolist() == [4, 2]
    assert result.activity.synaptic_operations.flatten().tolist() == [2, 1]  # identity and pool cost none


def test_on_sums_of_spikes_a_window_passes_the_increase_of_its_maximum(engine):
    """A0, A1 and B0 (which A0 drives) spike; A0 and B0 add up in cell 0, so the maximum rises to 1, 1 and 2."""
    row = (1, 1, 2)
    graph = Graph(
        [
            Population("A", 2, NEURON, row, row),
            Population("B", 2, NEURON, row, row),
            Population("out", 1, SILENT),
        ],
        [
            edge(INPUT, "A", OneToOne(row)),
            edge("A", "B", conv(row, [0.0, 2.0, -2.0])),
            edge("A", "pool", OneToOne(row)),
            edge("B", "pool", OneToOne(row)),
            edge("pool", "out", dense([[10.0]], (1, 1, 1))),
        ],
        "out",
        junctions=[pool(row, 1)],
    )
    assert run(engine, graph, [2, 0]).potentials.item() == 20
    # with A1, B0 gets 2 - 2 if both arrive together, but decides at A0's spike if that comes first
    assert run(engine, graph, [2, 2]).potentials.item() == 20
    assert run(engine, graph, [2, 2], scheduler="layered").potentials.item() == 20


@pytest.mark.parametrize("kind, expected", [("and", [1, 0]), ("iand", [0, 1])])
def test_and_and_iand_wait_until_nothing_upstream_can_change(engine, kind, expected):
    """A spikes twice; B, which A0 drives through a chain, spikes once: A AND B = (1, 0), A AND NOT B = (0, 1)."""
    grid = (2, 1, 1)
    graph = Graph(
        [Population(name, 2, NEURON) for name in ("A", "C", "B", "out")],
        [
            edge(INPUT, "A", OneToOne(grid)),
            edge("A", "C", dense([[2.0, 0.0], [0.0, 0.0]])),
            edge("C", "B", dense([[2.0, 0.0], [0.0, 0.0]])),
            edge("A", "join", OneToOne(grid), port=0),
            edge("B", "join", OneToOne(grid), port=1),
            edge("join", "out", dense([[3.0, 0.0], [0.0, 3.0]])),
        ],
        "out",
        junctions=[Junction("join", kind, grid, grid)],
    )
    result = run(engine, graph, [2, 2])
    assert result.spikes.flatten().tolist() == expected
    # steps: 0 input, A0, A1, C0, B0 delivered one by one, then the join's unit: the output comes last
    assert result.activity.forward_steps.item() == 6
    assert result.activity.first_output_step.item() == 5
    stopped = run(engine, graph, [2, 2], stop="after(5)")
    assert stopped.spikes.sum() == 0  # the join was still waiting
    with pytest.raises(OptionError, match="join"):
        run(engine, graph, [2, 2], leftover="carry", stop="after(5)")


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_function_waits_until_nothing_upstream_can_change_and_is_released_in_every_timestep(backend):
    """2 a b - (0, 1) of A's spikes a and of B's spikes and a bias, b = B + (0, 1/2): (2, 0), and (0, -1) of nothing.

    In the first timestep both A spike and B0, which A0 drives through a chain; in the second nobody does.
    """
    grid, holder = (2, 1, 1), nn.Module()
    holder.factor = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def function(x, live):
        (factor,) = live
        return factor * x[:, :2] * x[:, 2:] - torch.tensor([0.0, 1.0], dtype=torch.float64)

    biased = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        biased.weight.copy_(torch.eye(2))
        biased.bias.copy_(torch.tensor([0.0, 0.5]))
    join = Junction(
        "join", "wait", grid, grid, function=function, live=(Held(holder, "factor"),), ports=(grid, grid)
    )
    graph = Graph(
        [*(Population(name, 2, NEURON) for name in ("A", "C", "B")), Population("out", 2, SILENT)],
        [
            edge(INPUT, "A", OneToOne(grid)),
            edge("A", "C", dense([[2.0, 0.0], [0.0, 0.0]])),
            edge("C", "B", dense([[2.0, 0.0], [0.0, 0.0]])),
            edge("A", "join", OneToOne(grid), port=0),
            edge("B", "join", Dense.of(biased, grid), port=1),
            edge("join", "out", dense([[3.0, 0.0], [0.0, 3.0]])),
        ],
        "out",
        junctions=[join],
    )
    result = run(backend, graph, [2, 2], [0, 0])
    assert result.potentials[:, 0].tolist() == [[6, 0], [6, -3]]
    # steps: 0 input, A0, A1, C0, B0 delivered one by one, then the join's unit; of nothing: 0, then the join's unit
    assert result.activity.forward_steps.flatten().tolist() == [6, 2]
    # with the barrier the input, A, C and B take a step each; without spikes only the first of them and the last one
    layered = run(backend, graph, [2, 2], [0, 0], scheduler="layered")
    assert layered.potentials.equal(result.potentials)
    assert layered.activity.forward_steps.flatten().tolist() == [4, 2]
    # 3 a b of the first timestep, the unit of value 0 included, is kept in both
    result.potentials.sum().backward()
    assert holder.factor.grad.item() == 2 * 3 * (1 + 0.5)
    stopped = run(backend, graph, [2, 2], stop="after(5)")
    assert not stopped.potentials.any()  # the join was still waiting
    with pytest.raises(OptionError, match="join"):
        run(backend, graph, [2, 2], leftover="carry", stop="after(5)")
    with pytest.raises(UnsupportedByEngineError, match="'join'"):
        run("numba", graph, [2, 2])
    assert network(graph, "auto").backend == "torch"
    assert "join (waits until" in graph.describe()


def test_a_convolution_reaches_and_evaluates_the_neurons_under_its_kernel_only(engine):
    """The second population starts above threshold at its right end: only its turn can find that out."""
    row = (1, 1, 5)
    graph = Graph(
        [Population("A", 5, NEURON, row, row), Population("out", 5, NEURON, row, row)],
        [edge(INPUT, "A", OneToOne(row)), edge("A", "out", conv(row, [0.5, 2.0, 0.25]))],
        "out",
    )
    result = run(engine, graph, [0, 2, 0, 0, 0])
    # the kernel is correlated: the neuron left of the spike sees its last weight
    assert result.potentials.flatten().tolist() == [0.25, 0, 0.5, 0, 0]
    assert result.spikes.flatten().tolist() == [0, 1, 0, 0, 0]
    assert result.activity.synaptic_operations.item() == 3
    corner = run(engine, graph, [2, 0, 0, 0, 2], refractory="discard")
    # step 0 evaluates A; A0 reaches 2 neurons and the turn evaluates all 5, A4 reaches 2, one of them alone able or not
    assert corner.activity.synaptic_operations.item() == 4
    assert corner.activity.neuron_updates.item() == 5 + 5 + 2


def test_several_inputs_arrive_together_and_each_at_its_own_targets(engine):
    """Input 1 makes A spike, input 2 inhibits A1; both reach out at once, A0's spike one forward step later."""
    grid = (2, 1, 1)
    graph = Graph(
        [Population("A", 2, NEURON), Population("out", 1, SILENT)],
        [
            edge(INPUT, "A", OneToOne(grid)),
            edge("input 2", "A", dense([[0.0, 0.0, 0.0], [0.0, -1.0, 0.0]])),
            edge("input 2", "out", dense([[100.0, 200.0, 300.0]])),
            edge("A", "out", dense([[1.0, 2.0]])),
        ],
        "out",
        inputs={INPUT: grid, "input 2": (3, 1, 1)},
    )
    result = run(engine, graph, [2, 2, 0, 1, 0], [0, 2, 0, 0, 1], [0, 0, 0, 0, 0])
    assert result.potentials.flatten().tolist() == [201, 201 + 302, 201 + 302]
    assert result.activity.forward_steps.flatten().tolist() == [2, 2, 1]
    # A's identity costs nothing; each event of input 2 reaches both neurons of A and out, then come the spikes of A
    assert result.activity.synaptic_operations.flatten().tolist() == [3 + 1, 3 + 1, 0]
    net = network(graph, engine, scheduler="fifo", forward_group_size=1)
    rows = net.trace(torch.tensor([[[2.0, 2, 0, 1, 0]]], dtype=torch.float64)).rows
    assert [(e.population, e.index) for e in rows[0].delivered] == [
        ("input", 0),
        ("input", 1),
        ("input 2", 1),
    ]
    assert graph.describe().splitlines()[:2] == ["input (2)", "input 2 (3)"]


def test_weights_may_be_computed_in_every_run(engine):
    """Out gets (raw * 2) times the spikes of A: its gradient reaches what the weights were computed from."""
    raw, runs = torch.tensor([[3.0, 5.0]], dtype=torch.float64, requires_grad=True), []

    def compute():
        runs.append(1)
        return raw.sum(1), 2 * raw

    graph = Graph(
        [Population("A", 2, NEURON), Population("out", 1, SILENT)],
        [
            edge(INPUT, "A", OneToOne((2, 1, 1))),
            edge("A", "out", Dense(Computed(1), Computed(0), (2, 1, 1), 1), constant=Computed(0)),
        ],
        "out",
    )
    result = run(engine, graph, [2, 0], [0, 2], compute=compute)
    assert result.potentials.flatten().tolist() == [6 + 16, 16 + 32]
    before = len(runs)
    result.potentials[-1].sum().backward()
    assert len(runs) == before
    # each bias twice a timestep, a weight with each spike
    expected = torch.tensor([[2 + 4.0, 2 + 4.0]], dtype=torch.float64)
    assert torch.equal(raw.grad, expected)


def test_recurrent_spikes_arrive_at_their_targets_turn_of_the_next_timestep(engine):
    """Two neurons that excite each other: a spike comes back to the other one, one timestep later."""
    graph = Graph(
        [Population("A", 2, NEURON)],
        [
            edge(INPUT, "A", OneToOne((2, 1, 1))),
            edge("A", "A", dense([[0.0, 3.0], [3.0, 0.0]]), delayed=True),
        ],
        "A",
    )
    result = run(engine, graph, [2, 0], [0, 0], [0, 0])
    assert result.spikes[:, 0].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert result.activity.synaptic_operations.flatten().tolist() == [0, 2, 2]
