"""Does a checkpoint belong to this network? Asked before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snn_async.errors import CheckpointError


def check_architecture(saved: Mapping[str, Any], own: Mapping[str, Tensor], where: str) -> None:
    """Compare the names and shapes of a saved state dict with those of a network.

    Raises:
        CheckpointError: naming the first that differ.
    """
    problems = [
        f"{key} has shape {tuple(saved[key].shape)} in it and {tuple(own[key].shape)} here"
        for key in own
        if key in saved and saved[key].shape != own[key].shape
    ]
    problems += [f"{key} is missing in it" for key in own if key not in saved]
    problems += [f"{key} is unknown here" for key in saved if key not in own]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{where} was made for another architecture: {'; '.join(problems[:3])}{more}. "
            "Build the network it was made for, or start without it"
        )
