"""The fast engine against the readable one: the same events, counts and gradients, for every option."""

import dataclasses

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, Recipe, frames, network

from snn_async.engines.numba_engine import NumbaEngine
from snn_async.engines.reference import ReferenceEngine

recipes = st.builds(
    Recipe,
    sizes=st.sampled_from([(6, 5, 3), (7, 6, 5, 4), (5, 8, 2)]),
    kinds=st.just(()),
    bias=st.booleans(),
    dropout=st.sampled_from([(), (), ("source",), ("target",), ("source", "target")]),
    readout=st.booleans(),
    seed=st.integers(0, 10_000),
)
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
        if left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12, err_msg=field.name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=field.name)


class Logging:
    """An engine that remembers its event logs."""

    def __init__(self, engine):
        self.name, self.replay, self.engine, self.logs = engine.name, engine.replay, engine, []

    def simulate(self, *arguments):
        simulation = self.engine.simulate(*arguments)
        self.logs.append(simulation.log)
        return simulation


@settings(max_examples=60, deadline=None, derandomize=True)
@given(recipe=recipes, option=options, data=st.data())
def test_numba_gives_the_reference_log_counts_and_gradients(recipe, option, data):
    populations = len(recipe.sizes) - 1
    kinds = data.draw(st.tuples(*[st.sampled_from(sorted(KINDS))] * populations))
    skips = data.draw(
        st.sets(st.sampled_from([(i, j) for j in range(populations) for i in range(-1, j - 1)] or [(-1, 0)]))
    )
    recipe = dataclasses.replace(recipe, kinds=kinds, skips=tuple(sorted(skips)))
    if option["scheduler"] == "layered":
        option = option | {"leftover": "drop"}
    if option["refractory"] == "off":
        option = option | {"refractory_dropout": 0.0}
    if recipe.readout and option["stop"].startswith("output"):
        option = option | {"stop": "quiescent"}
    if option["scheduler"] == "momentum":
        option = option | {"momentum_noise": data.draw(st.sampled_from([0.0, 0.5]))}
    graph = recipe.graph()
    x = frames(graph, 4, 3, recipe.seed, analog=data.draw(st.booleans())).requires_grad_()
    runs, adjoints, logs = [], [], []
    for engine in (Logging(ReferenceEngine()), Logging(NumbaEngine())):
        net = network(graph, engine, **option).train()
        logs.append(engine.logs)
        torch.manual_seed(recipe.seed)
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
