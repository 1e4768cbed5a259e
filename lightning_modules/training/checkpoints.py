"""Is a file a checkpoint, and does it belong to this network? Asked before anything is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from snn_async.errors import CheckpointError, ConfigError

REQUIRED = ("pytorch-lightning_version", "epoch", "global_step", "loops")  # by Lightning
PROGRESS = ("optimizer_states", "lr_schedulers")  # what resuming needs too


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds.

    Raises:
        ConfigError: if there is no such file.
        CheckpointError: if it is damaged or no checkpoint.
    """
    if not path.is_file():
        raise ConfigError(
            f"ckpt_path={str(path)!r} is no file; give the path of a checkpoint made by `snn-async fit`"
        )
    try:
        with ZipFile(path) as file:
            if any(entry.compress_type != ZIP_STORED for entry in file.infolist()):
                raise ValueError("compressed")  # torch never does, and a small file could fill the memory
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{str(path)!r} is damaged or no checkpoint ({type(error).__name__})"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{str(path)!r} holds a {type(checkpoint).__name__}, no checkpoint")
    return checkpoint


def network_of(checkpoint: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Return the parameters and buffers in a checkpoint.

    Raises:
        CheckpointError: if it holds none, or something else in their place.
    """
    saved = checkpoint.get("state_dict")
    if not isinstance(saved, dict):
        raise CheckpointError(f"{where} holds no network; give one made by `snn-async fit`")
    for key, value in saved.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{where} is damaged: {key} is a {type(value).__name__}, not a tensor")
    return saved


def kept(checkpoint: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return a copy of one of a checkpoint's dictionaries, an empty one where it has none of that name.

    Raises:
        CheckpointError: if something else is in its place.
    """
    found = checkpoint.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CheckpointError(
            f"{where} is damaged: {name} is no dictionary; give one made by `snn-async fit`"
        )
    return dict(found)


def check_loadable(checkpoint: Mapping[str, Any], module: Any, resume: bool) -> None:
    """Ask whether `module`, a `SpikingClassifier`, can be loaded from a checkpoint, and trained on if `resume`.

    Raises:
        CheckpointError: if not.
    """
    where = "the checkpoint"
    check_architecture(network_of(checkpoint, where), module.state_dict(), where)
    check_structure(kept(checkpoint, "structure", where), module.structure, where)
    missing = [name for name in (REQUIRED + PROGRESS if resume else REQUIRED) if name not in checkpoint]
    if missing:
        raise CheckpointError(f"{where} has no {missing[0]!r}; give one made by `snn-async fit`")
    if not resume:
        return
    own: Any = module.configure_optimizers()
    own = own if isinstance(own, dict) else {"optimizer": own}
    # The scheduler first, as it leaves its mark in the optimizer's state.
    for name, key in (("lr_scheduler", "lr_schedulers"), ("optimizer", "optimizer_states")):
        part = own.get(name)
        part = part["scheduler"] if isinstance(part, dict) else part
        if not _same_kind(checkpoint[key], [] if part is None else [part.state_dict()]):
            raise CheckpointError(
                f"{where} was made with another {name}; take the one it was made with, or start without it"
            )


def _same_kind(saved: Any, own: list[dict[str, Any]]) -> bool:
    """Whether states of optimizers or schedulers have no option that the own ones lack."""
    if not isinstance(saved, list) or len(saved) != len(own):
        return False
    return all(
        isinstance(old, dict)
        and old.keys() <= new.keys()
        and len(old.get("param_groups", ())) == len(new.get("param_groups", ()))
        and all(
            a.keys() <= b.keys() and len(a["params"]) == len(b["params"])
            for a, b in zip(old.get("param_groups", ()), new.get("param_groups", ()), strict=True)
        )
        for old, new in zip(saved, own, strict=True)
    )


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


def check_structure(saved: Mapping[str, Any], own: Mapping[str, str], where: str) -> None:
    """Compare the settings of a saved network's modules, where they were kept, with those of a network.

    Raises:
        CheckpointError: naming the first that differ.
    """
    problems = [f"{k!r} was {saved[k]} and is {own[k]}" for k in own if saved.get(k, own[k]) != own[k]]
    if problems:
        more = f" and {len(problems) - 2} more" if len(problems) > 2 else ""
        raise CheckpointError(
            f"{where} was made for a network with other settings: {'; '.join(problems[:2])}{more}. Build the network "
            "it was made for, or take its parameters alone: network.load_state_dict"
        )
