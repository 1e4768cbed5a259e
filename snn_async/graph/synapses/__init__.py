"""Kinds of synapses, one a file."""

from snn_async.graph.synapses.affine import Affine, Rows
from snn_async.graph.synapses.base import Normalization, Packing, Synapses, Table
from snn_async.graph.synapses.convolution import Convolution
from snn_async.graph.synapses.dense import Dense
from snn_async.graph.synapses.one_to_one import OneToOne
from snn_async.graph.synapses.wiring import Wiring, wiring

__all__ = [
    "Affine",
    "Convolution",
    "Dense",
    "Normalization",
    "OneToOne",
    "Packing",
    "Rows",
    "Synapses",
    "Table",
    "Wiring",
    "wiring",
]
