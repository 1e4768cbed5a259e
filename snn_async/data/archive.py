"""One .npz file with the events of many recordings, checked whole before anything uses it."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from snn_async.data.events import FIELDS, SensorSize, pack_events
from snn_async.errors import ConfigError, DataError

KEYS = (*FIELDS, "offset", "label")
MAX_CLASSES = 2**16
SMALL = 2**26  # bytes that any file may unpack to
MOST_EXPANSION = 100  # times its size; recordings are compressed 3 to 10 times


@dataclass(frozen=True)
class Recordings:
    """The events of N recordings.

    Attributes:
        events: tonic's structured array (E,), recordings one after the other, each in order of time.
        offset: (N + 1,) int64, recording i is events[offset[i]:offset[i + 1]]; it may be empty.
        label: (N,) int64, 0 to MAX_CLASSES - 1.
    """

    events: NDArray
    offset: NDArray[np.int64]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, recording: int) -> NDArray:
        """Return the events of one recording (a view)."""
        recording = range(len(self))[recording]
        return self.events[self.offset[recording] : self.offset[recording + 1]]


def save_archive(path: str | Path, archive: Recordings) -> None:
    """Write `archive` with the keys x, y, p, t, offset and label; an existing file is replaced at once.

    Raises:
        ConfigError: a folder that cannot be written.
    """
    fields = {name: archive.events[name] for name in FIELDS}
    write_npz(path, **fields, offset=archive.offset, label=archive.label)


def load_archive(path: str | Path, sensor_size: SensorSize | None = None) -> Recordings:
    """Read and check an archive.

    Args:
        path: an .npz with x, y, p (0 or 1) and t (microseconds) of all recordings concatenated, each (E,);
            offset (N + 1,), recording i is [offset[i]:offset[i + 1]]; label (N,), whole numbers from 0.
        sensor_size: (H, W, 2); x and y must be within. None: any size.

    Raises:
        DataError: a file that is absent or damaged, lacks keys, or holds arrays that do not fit together or
            events that are not finite, in range and in order of time; it names file, recording and value.
    """
    arrays = read_npz(path, KEYS)
    try:
        offset, label = _check_layout(arrays)
        events = pack_events({name: arrays[name] for name in FIELDS}, offset, sensor_size)
    except DataError as error:
        raise DataError(f"event archive {path}: {error}") from None
    return Recordings(events, offset, label)


def read_npz(path: str | Path, keys: Sequence[str]) -> dict[str, NDArray]:
    """Return the named arrays of an .npz file. Nothing in it is executed, and it gets memory in proportion to its size.

    Raises:
        DataError: a file that is absent, truncated, damaged, too large unpacked or no .npz of numbers, or one that
            lacks some of the keys.
    """
    if not Path(path).is_file():
        raise DataError(f"no file {path}; give the path of an .npz with the keys {', '.join(keys)}")
    reading = "as a whole"
    try:
        size = Path(path).stat().st_size
        with ZipFile(path) as file:
            entries = {e.filename.removesuffix(".npy"): e for e in file.infolist()}
            missing = [key for key in keys if key not in entries]
            if missing:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: it needs {', '.join(keys)} and has "
                    f"{', '.join(entries) or 'no keys'}; rename them with numpy.savez"
                )
            wanted = [entries[key] for key in keys]
            check_expansion(sum(entry.file_size for entry in wanted), size, str(path))
            arrays = {}
            for reading, entry in zip(keys, wanted, strict=True):
                arrays[reading] = _array(file, entry)
            return arrays
    except DataError:
        raise
    except Exception as error:  # foreign bytes: numpy, zipfile and zlib fail in many ways
        raise DataError(
            f"{path} cannot be read ({reading}: {type(error).__name__}): it is truncated, damaged or no .npz "
            "of plain arrays; copy or write it again with numpy.savez"
        ) from error


def check_expansion(unpacked: int, packed: int, what: str) -> None:
    """Refuse data that would unpack to far more bytes than are there.

    Raises:
        DataError: for more than a small amount and more than any real data are compressed.
    """
    if unpacked > SMALL + MOST_EXPANSION * packed:
        raise DataError(
            f"{what}: {packed} bytes claim to hold {unpacked}; real data are not compressed that much. If these are, "
            "write them with numpy.savez, which does not compress"
        )


def _array(file: ZipFile, entry: ZipInfo) -> NDArray:
    """Read one entry whose size is known to be acceptable, if it is what its header says."""
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # the others unpack without bound
        raise ValueError(f"compressed by method {entry.compress_type}")
    with file.open(entry) as opened:
        version = npy.read_magic(opened)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(opened)
        claimed = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biufcSU" or not dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"{dtype} of shape {shape}")
        if claimed != entry.file_size - opened.tell():
            raise ValueError(f"{claimed} bytes claimed")
    with file.open(entry) as opened:
        return npy.read_array(opened, allow_pickle=False)


def write_npz(path: str | Path, **arrays: NDArray) -> None:
    """Write a compressed .npz such that a reader finds the old file or the whole new one, never a part.

    Raises:
        ConfigError: a folder that cannot be made or written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}); give a folder that can") from error


def _check_layout(arrays: dict[str, NDArray]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offset and label (int64) after checking every array's shape and that they fit together."""
    for name, array in arrays.items():
        if array.ndim != 1:
            raise DataError(f"{name} has shape {array.shape}; it must have one axis")
    for name in ("offset", "label"):
        if arrays[name].dtype.kind not in "iu":
            raise DataError(f"{name} has dtype {arrays[name].dtype}; use integers")
    lengths = {name: len(arrays[name]) for name in FIELDS}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(
            f"x, y, t and p must be equally long, but have lengths {told}; write them again together"
        )
    offset, label = arrays["offset"].astype(np.int64), arrays["label"].astype(np.int64)
    if len(offset) < 2 or offset[0] != 0 or offset[-1] != lengths["t"]:
        ends = f"{offset[0]} to {offset[-1]}" if len(offset) else "no value"
        raise DataError(
            f"offset has {len(offset)} entries, {ends}; it must have one more than there are recordings, "
            f"from 0 to the number of events, {lengths['t']}"
        )
    if (np.diff(offset) < 0).any():
        at = int(np.argmax(np.diff(offset) < 0))
        raise DataError(
            f"offset[{at + 1}] = {offset[at + 1]} is less than offset[{at}] = {offset[at]}; it must not fall"
        )
    if len(label) != len(offset) - 1:
        raise DataError(
            f"label has {len(label)} entries for {len(offset) - 1} recordings; give one label each"
        )
    wrong = (arrays["label"] < 0) | (arrays["label"] >= MAX_CLASSES)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"label[{at}] = {arrays['label'][at]}; number the classes from 0 to at most {MAX_CLASSES - 1}"
        )
    return offset, label
