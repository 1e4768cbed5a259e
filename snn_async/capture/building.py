"""From one step's expressions and the input's shape to a graph."""

from typing import Any, NamedTuple

from torch import nn

from snn_async.capture.chains import chain_of, check_operands, count_uses, is_max
from snn_async.capture.expressions import (
    Applied,
    Argument,
    Delayed,
    Expression,
    Fired,
    Product,
    Sum,
    operands,
)
from snn_async.capture.folding import Step
from snn_async.capture.forms import Forms
from snn_async.capture.layers import DropoutLayer, FlattenLayer, Form, Shape, renumbering
from snn_async.capture.pooling import AdaptivePoolLayer, PoolLayer
from snn_async.capture.readout import passing
from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import adapter_of
from snn_async.graph import INPUT, Dropout, Graph, Junction, Population, Projection
from snn_async.graph.grids import Grid, grid_of, size_of
from snn_async.graph.synapses import OneToOne, Synapses
from snn_async.neurons import Neuron

Dropouts = tuple[Dropout, ...]


class Origin(NamedTuple):
    """Where an expression comes from: a node, with this timestep's events or, `delayed`, the last one's."""

    node: str
    delayed: bool = False


def build(step: Step, shape: Shape) -> Graph:
    """Return the graph of `step` for an input of `shape` per sample.

    Raises:
        InputError: for a shape that a layer cannot take, naming the layer and the sizes.
        UnsupportedModelError: for anything that cannot be mapped exactly, with its place and the way out.
    """
    return _Builder(step, shape).graph()


class _Builder:
    def __init__(self, step: Step, shape: Shape) -> None:
        self.step = step
        self.uses = count_uses(step)
        self.populations: dict[str, Population] = {}
        self.junctions: dict[Expression, Junction] = {}
        self.projections: list[Projection] = []
        self.forms = Forms(step, shape)
        self.names = {INPUT, *step.currents}

    def graph(self) -> Graph:
        for name, current in self.step.currents.items():
            self._population(name, current)
        output, reads = self.step.output, self.step.reads
        if output is None:
            assert self.step.readout is not None
            output = self._readout(self.step.readout)
            reads = "spikes"  # of a neuron whose flat output is flattened once more; a readout has none
        return Graph(
            list(self.populations.values()),
            self.projections,
            output,
            junctions=list(self.junctions.values()),
            input_shape=self.forms.input_shape,
            flatten=self.forms.flat,
            reads=reads,
        )

    # -- populations -----------------------------------------------------------------------------------

    def _population(self, name: str, current: Expression) -> None:
        module = self.step.modules[name]
        adapter: Any = adapter_of(module)
        form = self.forms.of(current)
        recurrent = getattr(module, "recurrent", None)
        if isinstance(recurrent, nn.Linear) and len(form.shape) == 1:
            form = Form((form.shape[0], 1, 1), form.shape)
        self.forms.neurons[name] = form
        neuron = adapter.make_neuron(name, module, form.shape)
        self._add_population(name, neuron, form)
        self._connect(current, name)
        feedback = adapter.recurrent_synapses(name, module, form)
        if feedback is not None:
            self.projections.append(Projection(f"{name}.recurrent", name, name, feedback, delayed=True))

    def _readout(self, current: Expression) -> str:
        """Add a population that only shows what forward returns, and return its name."""
        while self._is_flattening_nothing(current):
            (current,) = operands(current)
        if isinstance(current, Fired):
            return current.neuron
        inner: Expression = current
        while isinstance(inner, Applied) and inner.operation.name not in self.step.modules:
            inner = inner.operand
        name = inner.operation.name if isinstance(inner, Applied) else _label(current)
        name = self._unique(name)
        module = self.step.modules.get(name, next(iter(self.step.modules.values())))
        self._add_population(name, passing(module), self.forms.of(current))
        self._connect(current, name)
        return name

    def _is_flattening_nothing(self, current: Expression) -> bool:
        flattens = isinstance(current, Applied) and isinstance(current.operation, FlattenLayer)
        return flattens and len(self.forms.of(operands(current)[0]).shape) == 1

    def _add_population(self, name: str, neuron: Neuron, form: Form) -> None:
        self.populations[name] = Population(name, size_of(form.grid), neuron, form.grid, form.shape)

    # -- projections -----------------------------------------------------------------------------------

    def _connect(self, expression: Expression, target: str, port: int = 0) -> None:
        """Add the projections that bring an expression to a node."""
        expression, dropouts = self._peeled(expression)
        if isinstance(expression, Sum) and not dropouts and self.uses[expression] == 1:
            for part in expression.parts:
                self._connect(part, target, port)
        elif isinstance(expression, Applied) and not is_max(expression) and self.uses[expression] == 1:
            self._project(expression, target, dropouts, port)
        else:
            self._join(expression, target, dropouts, port)

    def _peeled(self, expression: Expression) -> tuple[Expression, Dropouts]:
        """Return an expression without the flattening and dropouts around it, and these dropouts, innermost first.

        A dropout whose result is used twice has one mask for both uses, so it stays.
        """
        dropouts: Dropouts = ()
        while isinstance(expression, Applied):
            layer = expression.operation
            if isinstance(layer, DropoutLayer) and self.uses[expression] == 1:
                dropouts = (layer.dropout, *dropouts)
            elif not isinstance(layer, FlattenLayer):
                break
            expression = expression.operand
        return expression, dropouts

    def _project(self, expression: Applied, target: str, dropouts: Dropouts, port: int) -> None:
        """Connect by a layer's synapses."""
        layer = expression.operation
        if isinstance(layer, DropoutLayer):  # its result is used more than once
            source, inside = self._source(expression.operand)
            self._add(
                layer.name,
                source,
                target,
                OneToOne(self._grid(source.node)),
                (*inside, layer.dropout),
                dropouts,
                port,
            )
            return
        chain = chain_of(expression, self.uses)
        form = self.forms.known(chain.source)
        source, inside = self._source(chain.source)
        if form is None:
            form = self.forms.of(chain.source)
        first = chain.layers[0]
        grid = self._takes(target)
        numbered = grid_of(form.shape)
        assert numbered is not None
        if form.grid != numbered and not first.any_numbering:
            source, inside = self._renumbered(chain.source, form, numbered), ()
            form = Form(numbered, form.shape)
        synapses = chain.synapses(form)
        if synapses.target != grid:
            middle = self._origin(expression)
            self._add(
                f"{chain.name}.flatten",
                middle,
                target,
                renumbering(self.forms.of(expression), grid),
                (),
                dropouts,
                port,
            )
            return
        self._add(chain.name, source, target, synapses, inside, dropouts, port)

    def _join(self, expression: Expression, target: str, dropouts: Dropouts, port: int) -> None:
        """Connect one to one."""
        source, inside = self._source(expression)
        form, grid = self.forms.of(expression), self._takes(target)
        synapses: Synapses = OneToOne(form.grid)
        if form.grid != grid:
            synapses = renumbering(form, grid)
        self._add(f"{source.node} to {target}", source, target, synapses, (*inside, *dropouts), (), port)

    def _add(
        self,
        name: str,
        source: Origin,
        target: str,
        synapses: Synapses,
        source_dropout: Dropouts,
        target_dropout: Dropouts,
        port: int,
    ) -> None:
        node, delayed = source
        if delayed and (target not in self.populations or port):
            raise UnsupportedModelError(
                f"{target!r} takes feedback of the last timestep, but is no neuron; in a recurrent container only one "
                "layer may lie between the feedback and its neuron"
            )
        self.projections.append(
            Projection(name, node, target, synapses, source_dropout, target_dropout, delayed, port)
        )

    # -- nodes -----------------------------------------------------------------------------------------

    def _source(self, expression: Expression) -> tuple[Origin, Dropouts]:
        """Return where an expression comes from, and the dropouts that act on it there."""
        expression, dropouts = self._peeled(expression)
        return self._origin(expression), dropouts

    def _origin(self, expression: Expression) -> Origin:
        """Return the node whose units are an expression, making a junction if there is none yet."""
        if isinstance(expression, Argument):
            return Origin(INPUT)
        if isinstance(expression, Fired):
            return Origin(expression.neuron)
        if isinstance(expression, Delayed):
            return Origin(self.step.feedback[expression.container], delayed=True)
        if expression not in self.junctions:
            self._junction(expression)
        return Origin(self.junctions[expression].name)

    def _junction(self, expression: Applied | Sum | Product) -> None:
        form = self.forms.of(expression)
        name = self._unique(_label(expression))
        if isinstance(expression, Product):
            check_operands(expression)
            self.junctions[expression] = Junction(name, expression.kind, form.grid, form.grid)
            for port, operand in enumerate(expression.operands):
                self._connect(operand, name, port)
        elif isinstance(expression, Applied) and is_max(expression):
            self._max_junction(name, expression, form)
        else:
            self.junctions[expression] = Junction(name, "sum", form.grid, form.grid)
            if isinstance(expression, Sum):
                for part in expression.parts:
                    self._connect(part, name)
            else:
                self._project(expression, name, (), 0)

    def _max_junction(self, name: str, expression: Applied, form: Form) -> None:
        layer, (inner, _) = expression.operation, self._peeled(expression.operand)
        assert isinstance(layer, PoolLayer | AdaptivePoolLayer)
        if isinstance(inner, Argument):
            raise UnsupportedModelError(
                f"{layer.place}: max pooling of the network's input is not supported, an analog value is no event; "
                "put it before the network, or behind a convolution or neuron"
            )
        before = self.forms.of(expression.operand)
        self.junctions[expression] = Junction(name, "max", form.grid, before.grid, layer.windows(before))
        self._connect(expression.operand, name)

    def _renumbered(self, expression: Expression, form: Form, grid: Grid) -> Origin:
        """Return a junction with an expression's flattened features numbered on another grid."""
        flattened = Applied(FlattenLayer("flatten", ""), expression)
        if flattened not in self.junctions:
            name = self._unique("flatten")
            self.junctions[flattened] = Junction(name, "sum", grid, grid)
            source, dropouts = self._source(expression)
            self._add(name, source, name, renumbering(form, grid), dropouts, (), 0)
        return Origin(self.junctions[flattened].name)

    def _takes(self, target: str) -> Grid:
        if target in self.populations:
            return self.populations[target].grid
        return next(junction.cells for junction in self.junctions.values() if junction.name == target)

    def _grid(self, source: str) -> Grid:
        if source == INPUT:
            return self.forms.input_form().grid
        if source in self.populations:
            return self.populations[source].grid
        return next(junction.grid for junction in self.junctions.values() if junction.name == source)

    def _unique(self, name: str) -> str:
        found, number = name, 1
        while found in self.names:
            number += 1
            found = f"{name}_{number}"
        self.names.add(found)
        return found


def _label(expression: Expression) -> str:
    if isinstance(expression, Applied):
        return expression.operation.name
    return expression.name if isinstance(expression, Sum | Product) else "output"
