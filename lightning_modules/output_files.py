"""Writing results: whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from snn_async.errors import ConfigError


def check_writable(folder: Path) -> None:
    """Raise ConfigError unless `folder`, which need not exist yet, can be made and written; makes nothing."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ConfigError(
            f"cannot write to {str(folder)!r}: {str(place)!r} is a file; choose another output folder"
        )
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot write to {str(folder)!r}: {error.strerror}; choose another output folder"
        ) from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path` in one step.

    Raises:
        ConfigError: if it cannot be written, as on a full disk; the old file stays.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(told(error, path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def told(error: OSError, path: Path | None = None) -> str:
    """Return what cannot be written and the way out."""
    place = str(path or error.filename2 or error.filename or "the output")
    return (
        f"cannot write {place!r}: {error.strerror}; make room or choose another output folder, then run it again: "
        "what was finished before is whole"
    )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
