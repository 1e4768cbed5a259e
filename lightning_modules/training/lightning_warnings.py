"""Remarks of Lightning that say nothing about these runs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# The data are in memory and an epoch is short: worker processes and step-wise logs would only cost time.
REMARKS = (
    ".*does not have many workers which may be a bottleneck.*",
    ".*is smaller than the logging interval.*",
    ".*The dirpath has changed from .*",
    ".*LightningCLI's args parameter is intended.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 with torch 2.15
)


def silence_remarks() -> None:
    """Ignore `REMARKS`, for the rest of the process or of a `warnings.catch_warnings` block."""
    for remark in REMARKS:
        warnings.filterwarnings("ignore", message=remark)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within the block: no device or progress announcements, and none of `REMARKS`."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            silence_remarks()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
