"""LIAF (Wu et al., 2021; SpikingJelly's `LIAFNode`): a leaky neuron that sends its potential, not its spikes.

    h = leak * v + offset + gain * I,    v = reset of h where h passes the threshold

h is known when all of a timestep's currents are, so it waits for them (`Neuron.analog`). What the class makes of h
before it sends it, its activation, is an operator of the model behind it.
"""

from dataclasses import dataclass

from snn_async.neurons.base import Outcome, Refractory, State
from snn_async.neurons.linear import LinearNeuron, LinearParameters


@dataclass(frozen=True)
class AnalogNeuron(LinearNeuron):
    """A linear neuron that sends h; `reset` is that of its inner spikes, which `end` makes."""

    spiking: bool = False
    analog: bool = True
    binary: bool = False

    @property
    def default_refractory(self) -> Refractory:
        return "integrate"

    def end(self, live: LinearParameters, state: State, outcome: Outcome) -> State:
        h = outcome.potential
        spikes = self.surrogate(h - live.threshold).to(h)
        reset = spikes.detach() if self.detach_reset else spikes
        v = h - reset * (live.threshold if self.reset == "subtract" else h - self.reset_value)
        return v, state[1]

    def describe(self) -> str:
        return f"sends its potential; within, {super().describe()}"
