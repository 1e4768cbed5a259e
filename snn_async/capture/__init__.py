"""Capture: a model is run once on fake tensors, and what it calls becomes a graph (docs/architecture.md)."""

from snn_async.capture.arguments import Observed, arguments_of, kind_of, only_runs, tensors_among
from snn_async.capture.captured import Captured, capture, check_model
from snn_async.capture.program import Encoded

__all__ = [
    "Captured",
    "Encoded",
    "Observed",
    "arguments_of",
    "capture",
    "check_model",
    "kind_of",
    "only_runs",
    "tensors_among",
]
