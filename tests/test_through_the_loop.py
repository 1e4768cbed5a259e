"""`ThroughTheLoop` against the published loop, written down a second time with explicit weight matrices."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn_async import asynchronize, random_keys
from snn_async.engines.contract import Execution, PendingEvents, Simulation, Start, Values
from snn_async.errors import InputError, OptionError, RunawayError
from snn_async.graph import INPUT, Graph, Junction, Population, Projection
from snn_async.graph.synapses import Dense, OneToOne
from snn_async.learning.through_the_loop import ThroughTheLoop
from snn_async.neurons import LinearNeuron, LinearParameters
from snn_async.schedulers import Fifo, Momentum, Random, Scheduler, momentum_key
from snn_async.stopping import After, Output, Quiescent

RULE = ThroughTheLoop()
SEED = 5


class Paper(torch.autograd.Function):
    """H(x > 0) with the paper's gradient 1 / (pi (1 + (pi alpha x / 2)^2)), alpha = 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * slope(ctx.saved_tensors[0])


def slope(x: Tensor) -> Tensor:
    return 1 / (math.pi * (1 + (math.pi * x) ** 2))


def chain(*sizes: int, **options: Any) -> Graph:
    """Fully connected layers; the tests give weights and neuron values themselves."""
    names = [INPUT, *(f"p{i}" for i in range(len(sizes) - 1))]
    settings: dict[str, Any] = dict(reset="value") | options

    def unused(module: nn.Module) -> LinearParameters:
        raise AssertionError("neurons are read by networks only")

    populations = [
        Population(name, size, LinearNeuron(nn.Identity(), Paper.apply, False, parameters=unused, **settings))
        for name, size in zip(names[1:], sizes[1:], strict=True)
    ]
    projections = [
        Projection(f"{a}->{b}", a, b, Dense.of(nn.Linear(n, m), (n, 1, 1)))
        for a, b, n, m in zip(names, names[1:], sizes, sizes[1:], strict=False)
    ]
    return Graph(populations, projections, names[-1])


def execution(graph: Graph, scheduler: Scheduler, size: int | None, **options: Any) -> Execution:
    parts = len(graph.populations)
    return Execution(
        scheduler=scheduler,
        forward_group_size=size,
        **dict(
            refractory=("discard",) * parts,
            refractory_dropout=(0.0,) * parts,
            stop=Quiescent(),
            leftover="drop",
            input="prioritized",
            max_forward_steps=100,
        )
        | options,
    )


def run(
    graph: Graph,
    how: Execution,
    x: Tensor,
    weights: list[Tensor],
    base: Tensor,
    biases: list[Tensor] | None = None,
    gain: Tensor | float = 1.0,
    threshold: Tensor | float = 1.0,
    timestep: int = 0,
    ids: list[int] | None = None,
) -> Simulation:
    """One timestep by the rule; weights are matrices (fan_in, fan_out)."""
    biases = [weight.new_zeros(weight.shape[1]) for weight in weights] if biases is None else biases
    pending = PendingEvents.none(x.detach())
    values = Values(
        x=x,
        weights=torch.cat([weight.flatten() for weight in weights]),
        biases=torch.cat(biases),
        base=base,
        gain=gain if isinstance(gain, Tensor) else torch.full_like(base, gain),
        threshold=threshold if isinstance(threshold, Tensor) else torch.full_like(base, threshold),
        last_spikes=torch.zeros_like(base),
        pending=pending.amplitude,
        source_scale=(None,) * len(weights),
        target_scale=(None,) * len(weights),
    )
    samples = torch.tensor(ids or list(range(len(x))))
    return RULE.timestep(None, graph, how, values, Start(SEED, samples, timestep, pending), False)  # type: ignore[arg-type]


# -- the loop, written down again --------------------------------------------------------------------------------------


def priority(scheduler: Scheduler, potential: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    if isinstance(scheduler, Random):
        return uniform
    return -(momentum_key(potential) + scheduler.noise * uniform)


def published(
    how: Execution,
    x: Tensor,
    ws: list[Tensor],
    bs: list[Tensor],
    v: Tensor,
    gain: Tensor,
    threshold: Tensor,
    timestep: int,
    ids: list[int],
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The published loop for a 3-4-3-2 network: spikes, current, potential and the number of forward steps."""

    def uniform(purpose: int, step: int) -> Tensor:
        sources = 3 + np.arange(9)
        return torch.from_numpy(
            np.stack([random_keys.uniform(SEED, b, timestep, purpose, step, sources) for b in ids])
        )

    def layer(e: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return e @ w + b if e.any() else torch.zeros(len(e), w.shape[1], dtype=e.dtype)

    nothing = torch.zeros_like(v)
    refractory, p, q, counts, current = (
        torch.zeros_like(v, dtype=torch.bool),
        nothing,
        nothing,
        nothing,
        nothing,
    )
    i = torch.cat((x @ ws[0] + bs[0], torch.zeros(len(x), 5, dtype=x.dtype)), 1)
    rate, step = how.refractory_dropout[0], 0
    while step == 0 or q.any() or (i > 0).any():
        current = current + i * ~refractory
        v = (v + gain * i) * ~refractory
        s = Paper.apply(v - threshold) * ~refractory  # says something only of the threshold's gradient
        p = torch.where(s > 0, v.detach(), p)
        v = v * (1 - s)
        refractory = refractory | ((s > 0) & (uniform(random_keys.REFRACTORY_DROPOUT, step) >= rate))
        counts, q, step = counts + s, q + s, step + 1
        m = torch.zeros_like(v)
        keys = priority(how.scheduler, p.numpy(), uniform(random_keys.ORDER, step).numpy())
        for b in range(len(v)):
            order = sorted(range(9), key=lambda n, b=b: (q[b, n].item() == 0, keys[b, n], n))
            m[b, order[: how.forward_group_size]] = 1
        e, q = q * m, q * (1 - m)
        i = torch.cat(
            (
                torch.zeros(len(x), 4, dtype=x.dtype),
                layer(e[:, :4], ws[1], bs[1]),
                layer(e[:, 4:7], ws[2], bs[2]),
            ),
            1,
        )
    return counts, current, v, step


def drawn() -> dict[str, Any]:
    """Leaves of a 3-4-3-2 network that spikes in every layer: T = 2, B = 3."""
    g = torch.Generator().manual_seed(3)

    def normal(*shape: int, scale: float, shift: float = 0.0) -> Tensor:
        return (shift + scale * torch.randn(shape, generator=g, dtype=torch.float64)).requires_grad_()

    pairs = [(3, 4), (4, 3), (3, 2)]
    return dict(
        x=normal(2, 3, 3, scale=0.5, shift=0.8),
        ws=[normal(n, m, scale=0.7, shift=0.3) for n, m in pairs],
        bs=[normal(m, scale=0.1) for _, m in pairs],
        start=normal(3, 9, scale=0.3),
        gain=normal(3, 9, scale=0.1, shift=1.0),
        threshold=normal(3, 9, scale=0.1, shift=0.5),
        leak=normal(9, scale=0.05, shift=0.6),
    )


def two_timesteps(loop: Any, how: Execution, d: dict[str, Any]) -> tuple[list[Tensor], list[int]]:
    """Spikes, current and potential of each timestep, and the numbers of forward steps."""
    results: list[Tensor] = []
    steps, v = [], d["start"]
    for t in range(2):
        *three, n = loop(
            how, d["x"][t], d["ws"], d["bs"], v * d["leak"], d["gain"], d["threshold"], t, [4, 0, 9]
        )
        v = three[-1]
        results += three
        steps.append(n)
    return results, steps


@pytest.mark.parametrize("dropout", [0.0, 0.8])
@pytest.mark.parametrize("size", [1, 2, None])
@pytest.mark.parametrize(
    "scheduler", [Random(), Momentum(), Momentum(0.7)], ids=["random", "momentum", "noisy"]
)
def test_spikes_and_gradients_are_those_of_the_published_loop(scheduler, size, dropout):
    graph, d = chain(3, 4, 3, 2), drawn()
    how = execution(graph, scheduler, size, refractory_dropout=(dropout,) * 3)

    def ours(
        how: Execution, x: Tensor, ws: Any, bs: Any, v: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        done = run(graph, how, x, ws, v, bs, *rest)
        return done.spikes, done.current, done.potential, int(done.counts.forward_steps[0])

    (mine, steps), (theirs, expected) = (two_timesteps(loop, how, d) for loop in (ours, published))
    assert steps == expected and min(steps) >= 3
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    spikes = torch.stack((mine[0], mine[3]))  # some everywhere, repeated where they can be
    assert all(spikes[..., here].sum() > 0 for here in graph.slices.values()) and spikes.min() == 0
    assert (spikes.max() > 1) == (dropout > 0 and size is not None)
    generator = torch.Generator().manual_seed(1)
    adjoints = [torch.randn(3, 9, generator=generator, dtype=torch.float64) for _ in mine]
    leaves = [t for value in d.values() for t in (value if isinstance(value, list) else [value])]
    gradients, others = (torch.autograd.grad(results, leaves, adjoints) for results in (mine, theirs))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    torch.testing.assert_close(gradients, others, rtol=1e-12, atol=1e-12)


def double(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -- the accidents, one by one -----------------------------------------------------------------------------------------

# 1 -> 2 -> 1; the input brings 1.5 to the first hidden neuron, which spikes, and 0.5 to the second, which does not;
# the output gets 0.2 from the first and would get 0.4 from the second. Thresholds are 1.
IN, OUT = double([[1.5, 0.5]]), double([[0.2], [0.4]])


def small(size: int | None, x: list[float], out: Tensor = OUT, **options: Any) -> tuple[Simulation, Tensor]:
    graph = chain(1, 2, 1)
    base = torch.zeros(len(x), 3, dtype=torch.float64, requires_grad=True)
    how = execution(graph, Momentum(), size, **options)
    return run(graph, how, double(x)[:, None], [IN, out], base), base


def test_a_filler_gets_gradient():
    done, base = small(2, [1.0])
    assert done.spikes.tolist() == [[1, 0, 0]] and done.potential.tolist() == [[0, 0.5, 0.2]]
    (gradient,) = torch.autograd.grad(done.current[0, 2], base)
    # 0.4 / (pi (1 + (pi / 2)^2)) for the silent neuron, 0.2 / (pi (1 + (pi / 2)^2)) for the one that spiked
    assert gradient.tolist() == [[pytest.approx(0.0183602, abs=1e-7), pytest.approx(0.0367203, abs=1e-7), 0]]


def test_a_neuron_that_is_not_taken_gets_none():
    done, base = small(1, [1.0])
    (gradient,) = torch.autograd.grad(done.current[0, 2], base)
    assert gradient[0, 0] > 0 and gradient[0, 1] == 0


def test_a_batch_mate_changes_the_gradient():
    # alone, a silent sample sends nothing, and the second layer is left out; a mate that sends brings it in
    alone, base = small(2, [0.0])
    (gradient,) = torch.autograd.grad(alone.potential[0, 2], base)
    assert gradient.tolist() == [[0, 0, 1]]
    together, base = small(2, [0.0, 1.0])
    assert torch.equal(together.spikes[0], alone.spikes[0])
    (gradient,) = torch.autograd.grad(together.potential[0, 2], base)
    expected = double([0.2, 0.4]) * slope(double([-1.0]))
    torch.testing.assert_close(gradient[0, :2], expected, rtol=1e-12, atol=1e-12)
    assert gradient[1].eq(0).all()


def test_a_last_current_that_excites_nobody_is_dropped():
    done, _ = small(2, [1.0], out=-OUT)
    assert done.potential[0, 2] == 0 and done.current[0, 2] == 0
    assert small(2, [1.0, 1.0], out=-OUT)[0].potential[:, 2].eq(0).all()


def test_the_bias_comes_in_every_forward_step_in_which_a_sample_sends():
    base, biases = torch.zeros(2, 3).double(), [torch.zeros(2).double(), double([0.05])]
    graph = chain(1, 2, 1)
    done = run(
        graph, execution(graph, Momentum(), 1), double([[1], [0]]), [double([[1.5, 1.2]]), OUT], base, biases
    )
    # two neurons send one after the other; the silent sample gets both biases, too
    torch.testing.assert_close(done.potential[:, 2], double([0.7, 0.1]))


def test_output_spikes_take_places():
    # after the first hidden spike (1.3) the output fires (1.2), and goes before the second hidden spike (1.1)
    graph, base = chain(1, 2, 1), torch.zeros(1, 3).double()
    weights = [double([[1.3, 1.1]]), double([[1.2], [0.1]])]
    counts = run(graph, execution(graph, Momentum(), 1), double([[1]]), weights, base).counts
    assert counts.forward_steps.tolist() == [4] and counts.first_output_step.tolist() == [1]
    assert counts.synaptic_operations.tolist() == [4] and counts.neuron_updates.tolist() == [3 + 1]


def test_potentials_that_differ_in_rounding_only_go_by_index():
    graph, base = chain(1, 2, 1), torch.zeros(1, 3).double()
    weights = [double([[1.5, 1.5 + 1e-9]]), double([[1.2], [0.1]])]
    done = run(graph, execution(graph, Momentum(), 1), double([[1]]), weights, base)
    assert done.counts.first_output_step.tolist() == [1]


def test_one_silent_sample_disables_the_stop_at_the_output():
    out = double([[1.2], [0.4]])  # at input 3 both hidden neurons spike, and the output at the first of them

    def steps(x: list[float], **options: Any) -> list[int]:
        return small(1, x, out, **options)[0].counts.forward_steps.tolist()

    assert steps([3.0], stop=Output()) == [2] and steps([3.0], stop=Output(1)) == [3]
    assert steps([3.0, 0.0], stop=Output()) == steps([3.0, 0.0]) == [3, 3]


@pytest.mark.parametrize(
    "neuron, value, gradient",
    [  # at u = 1.5, with h the slope at 0.5
        (dict(reset="value", reset_value=-0.2), -0.2, lambda h: -1.7 * h),
        (dict(reset="value", reset_value=-0.2, detach_reset=True), -0.2, lambda h: 0),
        (dict(reset="subtract"), 0.5, lambda h: 1 - h),
        (dict(reset="subtract", detach_reset=True), 0.5, lambda h: 1),
        (dict(reset="none"), 1.5, lambda h: 1),
    ],
)
def test_resets_are_in_the_graph(neuron, value, gradient):
    graph = chain(1, 1, **neuron)
    base = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    how = execution(graph, Momentum(), None)
    done = run(graph, how, double([[1]]), [double([[1.5]])], base)
    assert done.potential.item() == pytest.approx(value, abs=1e-15)
    (given,) = torch.autograd.grad(done.potential.sum(), base)
    assert given.item() == pytest.approx(gradient(slope(double([0.5])).item()), abs=1e-12)


def test_a_hard_reset_carries_no_gradient_past_the_next_forward_step():
    done, base = small(2, [1.0])
    (gradient,) = torch.autograd.grad(
        done.potential[0, 0], base
    )  # its own spike was delivered, and a step followed
    assert gradient.eq(0).all()


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        dict(scheduler=Fifo()),
        dict(stop=After(3)),
        dict(leftover="carry"),
        dict(input="queued"),
        dict(refractory=("discard", "integrate")),
    ],
)
def test_options_that_the_published_method_lacks_are_refused(change):
    graph = chain(1, 2, 1)
    how = execution(graph, Random(), 2, stop=Output(3))
    RULE.check(graph, how)
    with pytest.raises(OptionError, match=f"{next(iter(change))}=.*use rule='unlayered'"):
        RULE.check(graph, replace(how, **change))


def test_graphs_that_the_published_method_lacks_are_refused():
    plain, grid = chain(2, 2), (2, 1, 1)
    how = execution(plain, Random(), 2)
    again = Projection("back", "p0", "p0", OneToOne(grid), delayed=True)
    into = [Projection("a", INPUT, "j", OneToOne(grid)), Projection("b", "j", "p0", OneToOne(grid))]
    for graph, named in (
        (Graph(plain.populations, [*plain.projections, again], "p0"), "recurrent edge 'back'"),
        (
            Graph(plain.populations, into, "p0", junctions=[Junction("j", "sum", grid, grid)]),
            "sum junction 'j'",
        ),
        (chain(2, 2, binary=False), "graded spikes of 'p0'"),
    ):
        with pytest.raises(OptionError, match=f"{named}.*use rule='unlayered'"):
            RULE.check(graph, how)


def test_a_timestep_that_does_not_end_is_an_error():
    with pytest.raises(RunawayError, match="max_forward_steps=1 "):
        small(1, [1.0], max_forward_steps=1)


def test_no_log_and_no_events_carried_in():
    graph, x = chain(1, 1), double([[1]])
    how, nothing = execution(graph, Random(), 1), PendingEvents.none(x)
    one = torch.zeros(1, dtype=torch.int64)
    start = Start(SEED, one, 0, PendingEvents(one, one, x[0], x[0], one, one))
    with pytest.raises(OptionError, match="rule='unlayered'"):
        RULE.timestep(None, graph, how, None, replace(start, pending=nothing), True)
    with pytest.raises(InputError, match="rule='unlayered'"):
        RULE.timestep(None, graph, how, None, start, False)


# -- a whole network ---------------------------------------------------------------------------------------------------


def test_a_model_trains_by_it_and_not_as_layered_backpropagation_does():
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    leaky: dict[str, Any] = dict(
        beta=0.5, threshold=0.5, reset_mechanism="zero", reset_delay=False, init_hidden=True
    )
    layers = [
        module for n, m in ((6, 8), (8, 8), (8, 3)) for module in (nn.Linear(n, m, False), snn.Leaky(**leaky))
    ]
    for layer in layers[::2]:
        nn.init.uniform_(layer.weight, 0, 0.4)  # nothing inhibits, so that all currents count
    net = asynchronize(
        nn.Sequential(*layers), rule="through_the_loop", forward_group_size=None, backend="reference"
    )
    x, adjoint = (torch.rand(5, 4, 6) < 0.5).float(), torch.randn(5, 4, 3)
    mine, layered = net.run(x), net.layered(x)
    assert torch.equal(mine.spikes, layered.spikes) and 0 < mine.spikes.mean() < 1
    ours, theirs = (
        torch.cat([g.flatten() for g in torch.autograd.grad(run.spikes, list(net.parameters()), adjoint)])
        for run in (mine, layered)
    )
    assert 0.1 < torch.cosine_similarity(ours, theirs, 0) < 0.99
