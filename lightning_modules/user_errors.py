"""Errors of what a user supplies, such as a model factory or a loss: one ConfigError that says whose."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentError

import snn_async
from snn_async.errors import ConfigError, SnnAsyncError

# Code that is not the user's.
OURS = tuple(str(Path(file).parent) for file in (snn_async.__file__, __file__))
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


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
    own = [frame for frame in frames if not frame[0].startswith((*OURS, *LIBRARIES, "<"))]
    place = " ({}:{})".format(*own[-1]) if own else ""
    message = str(error).rstrip(".")
    return f"{type(error).__name__}{message and f': {message}'}{place}"
