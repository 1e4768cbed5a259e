"""What a checkpoint keeps of a classifier's options, and the classifier's arguments when it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from snn_async import Options
from snn_async.errors import CheckpointError

from ..fingerprint import fingerprint
from ..models.make_model import check_may_be_called
from ..user_errors import is_own_class
from .checkpoints import kept

NOT_KEPT = ("example_inputs", "input_shape")  # say how a network is checked, not what it does
SCALAR = bool | int | float | str | None


@dataclass(frozen=True)
class KeptOptions:
    """Options as plain values, and fingerprints of those that are objects."""

    plain: dict[str, Any]
    objects: dict[str, str]

    @classmethod
    def of(cls, own: Mapping[str, Any], options: Mapping[str, Any]) -> "KeptOptions":
        """Return what to keep of the classifier's own options and those of `snn_async.asynchronize`."""
        usual = {f.name: f.default for f in fields(Options) if f.init} | {"backend": "auto", "seed": 0}
        every = {k: v for k, v in (usual | dict(options)).items() if k not in NOT_KEPT}
        plain = {k: v for k, v in every.items() if isinstance(v, SCALAR)}
        objects = {k: fingerprint(v) for k, v in every.items() if k not in plain}
        return cls(dict(own) | plain, objects)


def structure_of(model: nn.Module) -> dict[str, str]:
    """Return every module's class and, of the frameworks' and torch's own, its settings that are numbers or words."""
    found = {}
    for name, module in model.named_modules():
        settings = {} if is_own_class(type(module)) else vars(module)
        shown = [
            f"{k}={v!r}"
            for k, v in settings.items()
            if k[0] != "_" and k != "training" and isinstance(v, SCALAR)
        ]
        found[name] = f"{type(module).__name__}({', '.join(shown)})"
    return found


def arguments_for(checkpoint: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with which the classifier of a checkpoint is made.

    Raises:
        CheckpointError: if `given` contradicts the checkpoint, or something is missing.
    """
    saved, objects = (kept(checkpoint, name, "the checkpoint") for name in ("hyper_parameters", "objects"))
    named = {name: saved.pop(name, None) for name in ("network", "network_args")}
    for name, value in given.items():
        if name in saved and value != saved[name] or name in objects and fingerprint(value) != objects[name]:
            old = repr(saved[name]) if name in saved else "another object"
            raise CheckpointError(
                f"{name}={value!r} contradicts the checkpoint, which was made with {old}; leave it out, or make a "
                f"classifier of its network: SpikingClassifier(SpikingClassifier.from_checkpoint(path).network, "
                f"{name}={value!r})"
            )
    missing = [name for name in objects if name not in given]
    if missing:
        raise CheckpointError(
            f"the checkpoint was made with an object as {missing[0]}, which it does not hold; give {missing[0]}=... too"
        )
    if isinstance(given.get("network"), nn.Module):
        return dict(given) | {"network_args": given.get("network_args")}
    if "network" not in given:
        if named["network"] is None:
            raise CheckpointError(
                "the checkpoint does not say what makes its network, which was given as an object; give it: network=..."
            )
        check_may_be_called(str(named["network"]))
    return {k: v for k, v in named.items() if v is not None} | dict(given)
