"""The torch engine: batched tensor operations on any device, any affine module, any scheduler."""

import torch

from snn_async.engines.contract import (
    Adjoints,
    Execution,
    Gradients,
    Simulation,
    Slopes,
    Start,
    Values,
)
from snn_async.engines.torch.log import TorchLog
from snn_async.engines.torch.maps import KINDS, exact_products
from snn_async.engines.torch.replay import Replay
from snn_async.engines.torch.simulate import BatchRun
from snn_async.errors import UnsupportedByEngineError
from snn_async.graph import Graph


class TorchEngine:
    """The batch at once, forward step by forward step; gradients by autograd of the masked sum.

    Runs where its tensors are. A forward step costs one dense product per projection out of a node that delivers
    something, so that it pays on a GPU, with large groups, or for what no other engine runs: `Affine` synapses, whose
    events reach all their targets, and schedulers written in Python. These are asked, on the host, forward step by
    forward step for one sample after another, so one that draws random numbers of its own gives other runs than on
    engine "reference".

    On a GPU the host waits for the device (`to_host`) once per forward step of the slowest sample and once per level
    of waiting junctions, and in a timestep once more for each of: its end, events carried in, events left over. Behind
    a barrier it never waits. A replay waits once.

    Currents that are delivered together are summed by the product, not one after another as in the other engines. So
    potentials agree to rounding, and where two values are equal but for rounding (the same spikes, in another order,
    through the shared weights of a convolution), a "max" or a scheduler of one's own may take the other one. Samples do
    not see each other, but the last bits of a product may depend on the size of the batch, as everywhere in torch.
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
        with exact_products():
            return BatchRun(graph, execution, values, start, keep_log).run()

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        slopes: Slopes,
        adjoints: Adjoints,
        needs_x: bool,
    ) -> Gradients:
        """Return the gradients; see `Engine.replay`."""
        assert isinstance(simulation.log, TorchLog)
        with torch.no_grad(), exact_products():
            return Replay(graph, execution, values, simulation.log, slopes, adjoints, needs_x).run()
