"""The torch engine: batched tensor operations on any device, any affine module, any scheduler."""

from dataclasses import replace

import torch
from torch import Tensor

from snn_async.checks import not_finite
from snn_async.engines.contract import Execution, Gradients, Simulation, Start, Values
from snn_async.engines.torch.maps import KINDS, exact_products
from snn_async.engines.torch.replay import masked_sum
from snn_async.engines.torch.simulate import BatchRun
from snn_async.errors import UnsupportedByEngineError
from snn_async.graph import Graph

DIFFERENTIABLE = ("weights", "biases", "leak", "offset", "threshold", "potentials")


class TorchEngine:
    """The batch at once, forward step by forward step; gradients by autograd of the masked sum.

    Runs where its tensors are. A forward step costs one dense product per projection out of a node that delivers
    something, so that it pays on a GPU, with large groups, or for what no other engine runs: an `Opaque` module, whose
    events reach all its targets, and schedulers written in Python. These are asked forward step by forward step for
    one sample after another, so one that draws random numbers of its own gives other runs than on engine "reference".

    Currents that are delivered together are summed by the product, not one after another as in the other engines. So
    potentials agree to rounding, and where two values are equal but for rounding (the same spikes, in another order,
    through the shared weights of a convolution), the scheduler or a "max" may take the other one. Samples do not see
    each other, but the last bits of a product may depend on the size of the batch, as everywhere in torch.
    """

    name = "torch"

    def check(self, graph: Graph, execution: Execution) -> None:
        """Raise UnsupportedByEngineError for synapses it does not know."""
        for projection in graph.projections:
            synapses = projection.synapses
            if not isinstance(synapses, KINDS):
                raise UnsupportedByEngineError(
                    f"engine 'torch' cannot run {projection.name!r} ({synapses.describe()}); use backend='reference'"
                )

    @torch.no_grad()
    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        if not values.x.isfinite().all():
            raise not_finite(values.x.detach().cpu().numpy())
        with exact_products():
            return BatchRun(graph, execution, values, start, keep_log).run()

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        grad_spikes: Tensor | None,
        grad_potentials: Tensor | None,
        needs_x: bool,
    ) -> Gradients:
        """Return the adjoints; see `Engine.replay`. Memory is that of layered backprop, times forward steps.

        Raises:
            GradientError: if a surrogate's derivative is not finite.
        """
        named = {name: getattr(values, name).detach().requires_grad_() for name in DIFFERENTIABLE}
        x = values.x.detach().requires_grad_(needs_x)
        parameters = tuple(parameter.detach().requires_grad_() for parameter in values.parameters)
        tracked = replace(values, x=x, parameters=parameters, **named)
        leaves = [*named.values(), *parameters, *([x] if needs_x else [])]
        with torch.enable_grad(), exact_products():
            outputs = masked_sum(graph, execution, tracked, start, simulation)
            pairs = [
                (output, grad)
                for output, grad in zip(outputs, (grad_spikes, grad_potentials), strict=True)
                if grad is not None and output.requires_grad
            ]
            adjoints = (
                torch.autograd.grad(
                    [output for output, _ in pairs],
                    leaves,
                    [grad for _, grad in pairs],
                    allow_unused=True,
                    materialize_grads=True,
                )
                if pairs
                else tuple(torch.zeros_like(leaf) for leaf in leaves)
            )
        count = len(named) + len(parameters)
        return Gradients(
            **dict(zip(DIFFERENTIABLE, adjoints, strict=False)),
            x=adjoints[-1] if needs_x else None,
            parameters=tuple(adjoints[len(named) : count]),
        )
