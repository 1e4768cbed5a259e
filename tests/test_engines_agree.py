"""Every engine gives the reference's events, counts and gradients, on random graphs with random options."""

import dataclasses

import pytest
import torch
from every_engine import ENGINES
from hypothesis import given
from hypothesis import strategies as st
from networks import KINDS, MOTIFS, Drawing, Latest, Recipe, frames, network

OTHERS = [pytest.param(engine, id=name) for name, engine in ENGINES.items() if name != "reference"]
options = st.fixed_dictionaries(
    dict(
        scheduler=st.sampled_from(["random", "momentum", "fifo", "layered", "latest"]),
        forward_group_size=st.sampled_from([1, 2, 3, 8, None]),
        refractory=st.sampled_from([None, "discard", "integrate", "off"]),
        refractory_dropout=st.sampled_from([0.0, 0.7]),
        stop=st.sampled_from(["quiescent", "output", "output(1)", "after(1)", "after(3)", "after(6)"]),
        leftover=st.sampled_from(["drop", "carry"]),
        input=st.sampled_from(["prioritized", "queued"]),
    )
)


@st.composite
def graphs(draw, seed):
    """A random graph of Linear layers with skips, or one of the motifs."""
    dropout = draw(st.sampled_from([(), (), ("source",), ("target",), ("source", "target")]))
    motif = draw(st.sampled_from([None, None, *MOTIFS]))
    populations = draw(st.integers(2, 3))
    kinds = draw(st.tuples(*[st.sampled_from(sorted(KINDS))] * populations))
    if motif is not None:  # a dropout between a convolution's bias and a junction is refused
        biased = motif in ("pooled currents", "two inputs")
        return MOTIFS[motif](Drawing(seed, kinds, () if biased else dropout))
    edges = [(i, j) for j in range(populations) for i in range(-1, j - 1)]
    skips = draw(st.sets(st.sampled_from(edges or [(-1, 0)])))
    sizes = draw(st.sampled_from({2: [(6, 5, 3), (5, 8, 2)], 3: [(7, 6, 5, 4)]}[populations]))
    return Recipe(
        sizes, kinds, draw(st.booleans()), tuple(sorted(skips)), dropout, draw(st.booleans()), seed
    ).graph()


@st.composite
def cases(draw):
    """A random graph, input for it, and options that go together."""
    option, seed = draw(options), draw(st.integers(0, 10_000))
    graph = draw(graphs(seed))
    if option["scheduler"] == "layered" or any(junction.waits for junction in graph.junctions):
        option = option | {"leftover": "drop"}
    if option["refractory"] == "off":
        option = option | {"refractory_dropout": 0.0}
    if not graph.populations[-1].neuron.spiking and option["stop"].startswith("output"):
        option = option | {"stop": "quiescent"}
    if option["scheduler"] == "momentum":
        option = option | {"momentum_noise": draw(st.sampled_from([0.0, 0.5]))}
    # binary events through shared weights give cells that are equal but for the order of summation, an engine's
    # own, and a "max" between them another holder (docs/design.md, section 6)
    weighted = {projection.target for projection in graph.projections if projection.synapses.weighted}
    ties = any(junction.kind == "max" and junction.name in weighted for junction in graph.junctions)
    analog = draw(st.booleans()) or (ties and option["input"] == "queued")
    return graph, frames(graph, 4, 3, seed, analog=analog), option, seed


class Logging:
    """An engine, called timestep by timestep, that remembers its event logs."""

    def __init__(self, engine):
        self.name, self.check, self.replay = engine.name, engine.check, engine.replay
        self.engine, self.logs = engine, []

    def simulate(self, *arguments):
        simulation = self.engine.simulate(*arguments)
        self.logs.append(simulation.log)
        return simulation


def two_runs(graph, x, option, seed, engine):
    """Run x in two parts, the second from where the first ended.

    Returns:
        What was observed, then the gradients of the input and of every parameter.
    """
    net = network(graph, engine, **option).train()
    torch.manual_seed(seed)
    first = net.run(x[:2], record=tuple(graph.index))
    second = net.run(x[2:], state=first.state, record=tuple(graph.index))
    observed, loss = [], torch.zeros((), dtype=torch.float64)
    for part in (first, second):
        for i, record in enumerate(part.records.values()):
            weight = torch.linspace(-1, 1, record.spikes.numel(), dtype=torch.float64).view_as(record.spikes)
            loss = loss + (weight * record.spikes).sum()
            loss = loss + ((i + 1) * weight.flip(0) * record.potentials).sum()
        observed += [vars(part.activity), part.records, part.state.pending, part.potentials]
    leaves = [x, *net.parameters()]
    return observed, torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def assert_same(a, b, where=""):
    """Recursively: integers equal, whatever their width; floats to 1e-10."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name], f"{where}.{name}")
    elif isinstance(a, list | tuple):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}[{i}]")
    elif dataclasses.is_dataclass(a):
        assert_same(vars(a), vars(b), where)
    elif a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text: f"{where}: {text}")
    else:
        assert torch.equal(a.long(), b.long()), (where, a, b)


def ordered(log):
    """A log as a dictionary, deliveries in an order of their own: within a forward step theirs means nothing."""
    found = {f.name: getattr(log, f.name) for f in dataclasses.fields(type(log)) if f.init}
    names = ("event", "projection", "step_of_delivery")
    rows = sorted(zip(*(found.pop(name).tolist() for name in names), strict=True))
    return found | {"deliveries": torch.tensor(rows).reshape(-1, 3)}


@pytest.mark.parametrize("engine", OTHERS)
@given(case=cases())
def test_an_engine_gives_the_reference_log_counts_and_gradients(engine, case):
    graph, x, option, seed = case
    if option["scheduler"] == "latest":
        option = option | {"scheduler": Latest() if engine.name == "torch" else "fifo"}
    x = x.requires_grad_()
    whole = hasattr(engine, "runs_sequences") and engine.runs_sequences(graph)
    engines = [Logging(ENGINES["reference"]), engine if whole else Logging(engine)]
    expected, found = (two_runs(graph, x, option, seed, one) for one in engines)
    assert_same(expected, found)
    if not whole:
        for one, other in zip(*(e.logs for e in engines), strict=True):
            assert_same(ordered(one), ordered(other), "log")
