"""Checkpoints that are whole or not there."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from ..output_files import write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the checkpoint's place: Lightning writes to /tmp, and copies where that is another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        packed = io.BytesIO()  # on a full disk torch raises no OSError
        torch.save(checkpoint, packed)
        write_whole(Path(path), lambda temporary: temporary.write_bytes(packed.getbuffer()))
