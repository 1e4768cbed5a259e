"""Lightning modules, data modules and the `snn-async` command line. Public names, each imported at its first use:

    training  SpikingClassifier  one network, trained and evaluated with or without layer synchronization
              RateLoss, MeanLoss  cross entropy on output spike counts, and on mean potentials
              EpochSeeds  callback: a resumed fit gives the weights of an uninterrupted one
    data      DigitEvents  scikit-learn's digits seen by a simulated event camera
              EventArchive  recordings of any event camera, from one .npz file
              ImageArchive, load_images  images from one .npz file
    models    mlp, conv_net, sew_resnet, sew_resnet18  functions that return a network

A YAML names them the same way, `class_path: lightning_modules.DigitEvents`, and `compare` models as
`model: lightning_modules:mlp`. The command line is `lightning_modules.cli:main`.
"""

import sys
from importlib import import_module
from typing import Any

PLACES = {
    "SpikingClassifier": "training.classifier",
    "RateLoss": "training.losses",
    "MeanLoss": "training.losses",
    "EpochSeeds": "training.epoch_seeds",
    "DigitEvents": "data.digit_events",
    "EventArchive": "data.event_archive",
    "ImageArchive": "data.image_archive",
    "load_images": "data.image_reading",
    "mlp": "models.fully_connected",
    "conv_net": "models.convolutional",
    "sew_resnet": "models.sew_resnet",
    "sew_resnet18": "models.sew_resnet",
}

# What configurations named before there were folders: `lightning_modules.digit_events.DigitEvents` and others.
for _module in ("classifier", "digit_events", "event_archive", "image_archive", "losses", "sew_resnet"):
    sys.modules[f"{__name__}.{_module}"] = sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *PLACES]
