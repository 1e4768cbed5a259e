"""Remarks of Lightning that say nothing about these runs."""

import logging
import warnings

# The data are in memory and an epoch is short: worker processes and step-wise logs would only cost time.
REMARKS = (
    ".*does not have many workers which may be a bottleneck.*",
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 with torch 2.15
)


def silence_remarks() -> None:
    """Ignore `REMARKS`, for the rest of the process or of a `warnings.catch_warnings` block."""
    for remark in REMARKS:
        warnings.filterwarnings("ignore", message=remark)


class QuietLightning:
    """Context: no device or progress announcements, and none of `REMARKS`."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.WARNING)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        silence_remarks()

    def __exit__(self, *exception: object) -> None:
        self.warnings.__exit__(*exception)
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
