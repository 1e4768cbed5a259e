"""Errors of what a user supplies, such as a model factory or a loss: one ConfigError that says whose."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

import snn_async
from snn_async.errors import ConfigError, SnnAsyncError

# Code that is not the user's.
OURS = tuple(str(Path(file).parent) for file in (snn_async.__file__, __file__))
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_own(file: str) -> bool:
    """Whether a file of code is the user's, neither the project's nor a library's; "<stdin>" and the like are."""
    return not file.startswith((*OURS, *LIBRARIES, "<frozen"))


def is_own_class(kind: type) -> bool:
    """Whether a class is the user's."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ != "builtins" and is_own(file or "")


@contextmanager
def blame(what: str, advice: str = "") -> Iterator[None]:
    """Turn what is raised within the block into a ConfigError naming `what` and the user's file and line.

    The project's own errors and jsonargparse's are clear already and pass.
    """
    try:
        yield
    except (SnnAsyncError, ArgumentError):
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what}: {describe(error)}{advice and f'; {advice}'}") from error


def describe(error: BaseException) -> str:
    """Return type, message and, where the user's code is involved, its last file and line."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno))
    own = [frame for frame in frames if is_own(frame[0]) and not frame[0].startswith("<")]
    place = " ({}:{})".format(*own[-1]) if own else ""
    message = str(error).rstrip(".")
    return f"{type(error).__name__}{message and f': {message}'}{place}"


def check_made(name: str, configured: Any, made: Any) -> None:
    """Raise ConfigError unless what a configuration names was made and can be called; a setting of None is."""
    if configured is not None and not callable(made):
        path = configured["class_path"] if isinstance(configured, Mapping | Namespace) else configured
        raise ConfigError(
            f"{name}: {path} returned {made!r}, which cannot be called; let it return a function or an object with "
            "__call__, or name the function itself, without class_path"
        )
