"""docs/design.md, section 5, properties 2 to 4, and what follows from a counter-based schedule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import KINDS, MOTIFS, WAITING, Drawing, Recipe, frames, job, network
from spikingjelly.activation_based import neuron
from torch import nn

import snn_async
from snn_async import random_keys
from snn_async.engines.contract import DIFFERENTIABLE
from snn_async.engines.numba.forward import keys as numba_keys
from snn_async.engines.reference.replay import masked_sum
from snn_async.graph import Graph
from snn_async.learning.unlayered import UnlayeredBackprop

RECIPE = Recipe((8, 7, 6, 4), ("value", "subtract, delayed", "value"), seed=11)


def gradients(net, x, layered=False, **options):
    run = (net.layered if layered else net.run)(x, **options)
    weight = torch.linspace(-1, 1, run.spikes.shape[2], dtype=x.dtype)
    parameters = [p for p in net.parameters() if p.requires_grad]
    return run, torch.autograd.grad((weight * run.spikes).sum() + run.potentials.sum(), parameters)


@pytest.mark.parametrize("motif", [None, *MOTIFS])
@pytest.mark.parametrize("scheduler", ["random", "momentum"])
def test_a_sample_is_the_same_alone_and_anywhere_in_a_batch(engine, scheduler, motif):
    graph = MOTIFS[motif](Drawing(11, RECIPE.kinds)) if motif else RECIPE.graph()
    net = network(graph, engine, scheduler=scheduler, forward_group_size=2, momentum_noise=0.0)
    x, ids = frames(graph, 3, 6, RECIPE.seed), torch.arange(100, 106)
    whole, grads = gradients(net, x, sample_ids=ids, seed=3)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    mixed, mixed_grads = gradients(net, x[:, order], sample_ids=ids[order], seed=3)
    assert torch.equal(mixed.spikes, whole.spikes[:, order])
    alone = [gradients(net, x[:, i : i + 1], sample_ids=ids[i : i + 1], seed=3) for i in range(6)]
    assert torch.equal(torch.cat([run.spikes for run, _ in alone], 1), whole.spikes)
    for total, reordered, *parts in zip(grads, mixed_grads, *[g for _, g in alone], strict=True):
        torch.testing.assert_close(reordered, total, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(sum(parts), total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("motif", ["convolutions", "sequence", "pools", "pooled currents", "recurrent"])
def test_with_everything_delivered_at_once_a_graph_without_skips_is_layered(engine, motif):
    """Property 1 for what Linear layers do not cover; against the frameworks themselves in test_models."""
    graph = MOTIFS[motif](Drawing(3, ("subtract", "value", "subtract, delayed")))
    net = network(graph, engine, scheduler="random", forward_group_size=None)
    x = frames(graph, 4, 3, 7)
    (run, grads), (layered, expected) = gradients(net, x), gradients(net, x, layered=True)
    assert torch.equal(run.spikes, layered.spikes) and run.spikes.any()
    torch.testing.assert_close(run.potentials, layered.potentials, rtol=1e-12, atol=1e-12)
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("motif", [None, "residual", "pools"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_and_two_threads_give_the_same_bits(dtype, motif):
    wide = Recipe((60, 50, 40, 10), ("value",) * 3, seed=2)
    graph = MOTIFS[motif](Drawing(2, ("value",))) if motif else wide.graph()
    net = network(graph, "numba", scheduler="random", forward_group_size=8).to(dtype).eval()
    x = frames(graph, 6, 40, wide.seed).to(dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(gradients(net, x))
    finally:
        torch.set_num_threads(threads)
    (one, one_grads), (two, two_grads) = results
    assert torch.equal(one.spikes, two.spikes) and torch.equal(one.potentials, two.potentials)
    assert all(torch.equal(a, b) for a, b in zip(one_grads, two_grads, strict=True))


@pytest.mark.parametrize("name", ["LIFNode", "ParametricLIFNode"])
def test_the_number_of_threads_does_not_show_in_large_layers_either(name):
    torch.manual_seed(0)
    node = getattr(neuron, name)
    model = nn.Sequential(nn.Linear(1200, 64), node(), nn.Linear(64, 10), node())
    net, x = snn_async.asynchronize(model), 4 * (torch.rand(4, 40, 1200) < 0.1).float()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(torch.autograd.grad(net.run(x).potentials.sum(), list(model.parameters())))
    finally:
        torch.set_num_threads(threads)
    assert all(a.abs().sum() > 0 and torch.equal(a, b) for a, b in zip(*results, strict=True))


# a detached reset is not the derivative of anything; the engines' agreement covers it
CASES = [(None, kind) for kind in KINDS if "detach_reset" not in KINDS[kind]]
CASES += [(motif, "subtract") for motif in (*MOTIFS, *WAITING)]


@pytest.mark.parametrize("motif, kind", CASES)
@pytest.mark.parametrize("refractory", ["discard", "integrate", "off"])
def test_replay_is_the_derivative_of_the_masked_sum(motif, kind, refractory):
    """With a smooth stand-in for H and the log frozen, finite differences agree with autograd of the oracle."""
    plain = Recipe((6, 5, 4), (kind, kind), seed=4)
    graph = (MOTIFS | WAITING)[motif](Drawing(4, [kind])) if motif else plain.graph()
    carry = "drop" if any(junction.waits for junction in graph.junctions) else "carry"
    options = dict(
        scheduler="random", forward_group_size=1, refractory=refractory, stop="after(5)", leftover=carry
    )
    net = network(graph, "reference", **options)
    whole = replace(job(net, frames(graph, 3, 2, 4), 0, torch.arange(2)), keep_log=True)
    before = UnlayeredBackprop().run(replace(whole, x=whole.x[:2])).standing
    last = replace(whole, x=whole.x[2:], standing=before, timestep=2)
    values, start = last.values(0, before), last.start(0, before.pending)
    log = UnlayeredBackprop().run(last).simulations[0].log
    smooth = [torch.special.expit] * len(graph.populations)
    point = {name: getattr(values, name).detach().clone() for name in DIFFERENTIABLE}
    generator = torch.Generator().manual_seed(0)
    along, along_parameters = (
        {n: torch.randn(v.shape, generator=generator, dtype=torch.float64) for n, v in named}
        for named in (point.items(), enumerate(values.parameters))
    )
    # zero inputs stay zero: a queued or absent input is not an event
    along["x"] = along["x"] * (values.x != 0)

    def loss(step):
        moved = replace(
            values,
            **{name: point[name] + step * along[name] for name in DIFFERENTIABLE},
            parameters=tuple(
                p.detach() + step * along_parameters[i] for i, p in enumerate(values.parameters)
            ),
        )
        results = masked_sum(graph, last.execution, moved, start, log, surrogates=smooth)
        return sum(((i + 1) * result).sin().sum() for i, result in enumerate(results))

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(step), step)
    eps = 2e-6
    numeric = (loss(torch.tensor(eps)) - loss(torch.tensor(-eps))) / (2 * eps)
    torch.testing.assert_close(slope, numeric.detach(), rtol=1e-6, atol=1e-7)


def test_a_stream_in_two_runs_equals_one_run_gradients_included(engine):
    net = network(RECIPE.graph(), engine, scheduler="random", forward_group_size=2).eval()
    x = frames(RECIPE.graph(), 6, 3, RECIPE.seed)
    whole = net.run(x)
    first = net.run(x[:2])
    second = net.run(x[2:], state=first.state)
    assert torch.equal(torch.cat((first.spikes, second.spikes)), whole.spikes)
    assert second.state.timestep == 6
    parameters = [p for p in net.parameters() if p.requires_grad]
    split = torch.autograd.grad(second.potentials.sum(), parameters, allow_unused=True)
    expected = torch.autograd.grad(whole.potentials[2:].sum(), parameters, allow_unused=True)
    for a, b in zip(split, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_any_state_is_shown_after_every_timestep(engine):
    x, net = frames(RECIPE.graph(), 3, 2, RECIPE.seed), network(RECIPE.graph(), engine)
    given = job(net, x, 0, torch.arange(2))
    shown = tuple((name, what) for name in ("p0", "p2") for what in ("spikes", 0, 1))
    done = UnlayeredBackprop().run(replace(given, shown=shown))
    plain = net.run(x, seed=0, record=("p0",))
    for name, record in (("p0", plain.records["p0"]), ("p2", plain)):
        assert torch.equal(done.shown[name, "spikes"], record.spikes) and record.spikes.any()
        assert torch.equal(done.shown[name, 0], record.potentials)
        assert torch.equal(done.shown[name, 1], record.spikes)  # what delayed resets see


def test_a_job_of_one_sample_is_its_part_of_the_batch(engine):
    net = network(RECIPE.graph(), engine, scheduler="random", forward_group_size=1, stop="after(3)")
    x, ids = frames(RECIPE.graph(), 4, 3, RECIPE.seed), torch.tensor([5, 2, 8])
    whole = net.run(x, seed=3, sample_ids=ids)
    alone = job(net, x, 3, ids).of_sample(1)
    done = UnlayeredBackprop().run(replace(alone, shown=(("p2", "spikes"), ("p2", 0))))
    assert torch.equal(done.shown["p2", "spikes"], whole.spikes[:, 1:2])
    torch.testing.assert_close(done.shown["p2", 0], whole.potentials[:, 1:2], rtol=1e-12, atol=1e-12)


def test_a_population_that_cuts_its_state_has_the_gradient_of_single_timesteps(engine):
    whole = RECIPE.graph()
    cut = [replace(population, detached=True) for population in whole.populations]
    net, x = network(Graph(cut, whole.projections, whole.output), engine), frames(whole, 3, 2, RECIPE.seed)
    parameters = [p for p in net.parameters() if p.requires_grad]
    run = net.run(x, seed=1)
    grads = torch.autograd.grad(run.potentials.sum() + run.spikes.sum(), parameters, allow_unused=True)
    state, loss = None, 0.0
    for frame in x.split(1):
        part = net.run(frame, state=state, seed=1)
        state, loss = part.state.detach(), loss + part.potentials.sum() + part.spikes.sum()
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-10)
    attached = network(whole, engine).run(x, seed=1)
    kept = torch.autograd.grad(
        attached.potentials.sum() + attached.spikes.sum(), parameters, allow_unused=True
    )
    assert torch.equal(attached.potentials, run.potentials)
    assert not torch.allclose(kept[0], grads[0])


def test_training_draws_its_schedule_from_torchs_generator_and_evaluation_is_fixed():
    net = network(RECIPE.graph(), "numba", scheduler="random", forward_group_size=1)
    x = frames(RECIPE.graph(), 8, 8, RECIPE.seed)
    assert torch.equal(net.eval()(x), net(x))
    net.train()
    torch.manual_seed(1)
    first, other = net(x), net(x)
    torch.manual_seed(1)
    assert torch.equal(first, net(x)) and not torch.equal(first, other)


def test_compiled_and_readable_generators_agree():
    sources = np.array([0, 1, 5, 1000])
    expected = random_keys.uniform(-3, 17, 4, random_keys.ORDER, 9, sources)
    state = np.uint64(0)
    for value in (-3, 17, 4, random_keys.ORDER, 9):
        state = np.uint64(numba_keys.mix(state, value))
    assert [numba_keys.uniform(state, s) for s in sources] == expected.tolist()
    assert abs(random_keys.uniform(1, 2, 3, 1, 4, np.arange(4000)).mean() - 0.5) < 0.02


def test_recorded_populations_are_differentiable():
    net = network(RECIPE.graph(), "numba", forward_group_size=2)
    run = net.run(frames(RECIPE.graph(), 3, 2, RECIPE.seed), record=("p0", "p1"))
    assert run.records["p1"].spikes.shape == (3, 2, 6)
    (grad,) = torch.autograd.grad(run.records["p0"].spikes.sum(), [next(net.parameters())], allow_unused=True)
    assert grad is not None and grad.abs().sum() > 0
