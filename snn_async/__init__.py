"""snn-async: run, train and compare spiking networks without layer synchronization."""

from snn_async.asynchronize import asynchronize
from snn_async.errors import SnnAsyncError
from snn_async.network import AsyncNetwork
from snn_async.options import Options
from snn_async.results import Activity, AsyncRun, AsyncState, Record

__all__ = [
    "Activity",
    "AsyncNetwork",
    "AsyncRun",
    "AsyncState",
    "Options",
    "Record",
    "SnnAsyncError",
    "asynchronize",
]
__version__ = "0.1.0"
