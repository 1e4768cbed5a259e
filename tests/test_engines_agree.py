"""The fast engine against the readable one: the same events, counts and gradients, for every option."""

import dataclasses

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, MOTIFS, Drawing, Recipe, frames, network

from snn_async.engines.numba.engine import NumbaEngine
from snn_async.engines.reference.engine import ReferenceEngine

options = st.fixed_dictionaries(
    dict(
        scheduler=st.sampled_from(["random", "momentum", "fifo", "layered"]),
        forward_group_size=st.sampled_from([1, 2, 3, 8, None]),
        refractory=st.sampled_from([None, "discard", "integrate", "off"]),
        refractory_dropout=st.sampled_from([0.0, 0.7]),
        stop=st.sampled_from(["quiescent", "output", "output(1)", "after(1)", "after(3)"]),
        leftover=st.sampled_from(["drop", "carry"]),
        input=st.sampled_from(["prioritized", "queued"]),
    )
)


def same_events(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if field.name == "deliveries":  # their order within a forward step means nothing
            left, right = (_ordered(log) for log in (a, b))
        if left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12, err_msg=field.name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=field.name)


def _ordered(log):
    sample = np.repeat(np.arange(len(log.delivered)), log.delivered[:, -1] - log.delivered[:, 0])
    rows = log.deliveries
    return rows[np.lexsort((rows, log.delivered_step[rows], log.delivered_timestep[rows], sample))]


class Logging:
    """An engine that remembers its event logs."""

    def __init__(self, engine):
        self.name, self.replay, self.engine, self.logs = engine.name, engine.replay, engine, []

    def simulate(self, *arguments):
        simulation = self.engine.simulate(*arguments)
        self.logs.append(simulation.log)
        return simulation


@st.composite
def cases(draw):
    """A random graph, input for it, and options that go together."""
    option, seed = draw(options), draw(st.integers(0, 10_000))
    dropout = draw(st.sampled_from([(), (), ("source",), ("target",), ("source", "target")]))
    motif = draw(st.sampled_from([None, None, *MOTIFS]))
    populations = draw(st.integers(2, 3))
    kinds = draw(st.tuples(*[st.sampled_from(sorted(KINDS))] * populations))
    readout = motif is None and draw(st.booleans())
    if motif is not None:
        graph = MOTIFS[motif](Drawing(seed, kinds, () if motif == "pooled currents" else dropout))
    else:
        edges = [(i, j) for j in range(populations) for i in range(-1, j - 1)]
        skips = draw(st.sets(st.sampled_from(edges or [(-1, 0)])))
        sizes = draw(st.sampled_from({2: [(6, 5, 3), (5, 8, 2)], 3: [(7, 6, 5, 4)]}[populations]))
        recipe = Recipe(sizes, kinds, draw(st.booleans()), tuple(sorted(skips)), dropout, readout, seed)
        graph = recipe.graph()
    waits = any(junction.waits for junction in graph.junctions)
    if option["scheduler"] == "layered" or waits:
        option = option | {"leftover": "drop"}
    if option["refractory"] == "off":
        option = option | {"refractory_dropout": 0.0}
    if readout and option["stop"].startswith("output"):
        option = option | {"stop": "quiescent"}
    if option["scheduler"] == "momentum":
        option = option | {"momentum_noise": draw(st.sampled_from([0.0, 0.5]))}
    return graph, frames(graph, 4, 3, seed, analog=draw(st.booleans())), option, seed


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases())
def test_numba_gives_the_reference_log_counts_and_gradients(case):
    graph, x, option, seed = case
    x = x.requires_grad_()
    runs, adjoints, logs = [], [], []
    for engine in (Logging(ReferenceEngine()), Logging(NumbaEngine())):
        net = network(graph, engine, **option).train()
        logs.append(engine.logs)
        torch.manual_seed(seed)
        first = net.run(x[:2], record=tuple(graph.index))
        run = net.run(x[2:], state=first.state, record=tuple(graph.index))
        loss = torch.zeros((), dtype=torch.float64)
        for part in (first, run):
            for i, record in enumerate(part.records.values()):
                weight = torch.linspace(-1, 1, record.spikes.numel(), dtype=torch.float64).view_as(
                    record.spikes
                )
                loss = (
                    loss
                    + (weight * record.spikes).sum()
                    + ((i + 1) * weight.flip(0) * record.potentials).sum()
                )
        adjoints.append(torch.autograd.grad(loss, [x, *net.parameters()], allow_unused=True))
        runs.append(run)
    for a, b in zip(*logs, strict=True):
        same_events(a, b)
    reference, fast = runs
    for name in graph.index:
        assert torch.equal(reference.activity.spikes[name], fast.activity.spikes[name])
    assert torch.equal(reference.spikes, fast.spikes)
    torch.testing.assert_close(reference.potentials, fast.potentials, rtol=1e-12, atol=1e-12)
    for name in ("forward_steps", "first_output_step", "synaptic_operations", "neuron_updates"):
        assert torch.equal(getattr(reference.activity, name), getattr(fast.activity, name)), name
    same_events(reference.state.pending, fast.state.pending)
    for a, b in zip(*adjoints, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
