"""Events of one or many recordings, as tonic keeps them: structured arrays with fields x, y, t, p.

t is in microseconds, p is True where the light grew brighter.
A sensor size is (H, W, 2); tonic's is (W, H, 2).
"""

import numpy as np
from numpy.typing import NDArray

from snn_async.errors import DataError

EVENT_DTYPE = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.bool_)])  # tonic's
FIELDS = ("x", "y", "t", "p")
SensorSize = tuple[int, int, int]


def pack_events(
    fields: dict[str, NDArray], offset: NDArray, sensor_size: SensorSize | None = None
) -> NDArray:
    """Return the events of consecutive recordings as one structured array (E,), every event checked.

    Args:
        fields: x, y, t and p, each (E,).
        offset: (N + 1,), recording i is [offset[i]:offset[i + 1]].
        sensor_size: (H, W, 2) in pixels; None leaves x and y without an upper limit.

    Raises:
        DataError: a value that is not finite, whole or in range, or a time that runs backwards, with its
            recording, field and value.
    """
    height, width, polarities = sensor_size or (2**15, 2**15, 2)
    limits = {"x": width, "y": height, "t": 2**62, "p": polarities}
    for name in FIELDS:
        _check_field(name, fields[name], offset, limits[name])
    time = fields["t"].astype(np.int64)
    backwards = np.flatnonzero(np.diff(time) < 0) + 1
    backwards = backwards[~np.isin(backwards, offset)]
    if len(backwards):
        at = int(backwards[0])
        raise DataError(
            f"{_place('t', at, offset)} = {time[at]} us comes after {time[at - 1]} us: "
            "events must be in order of time; sort each recording by t"
        )
    events = np.empty(len(time), EVENT_DTYPE)
    for name in FIELDS:
        events[name] = fields[name]
    return events


def check_events(events: NDArray, sensor_size: SensorSize, recording: int = 0) -> NDArray:
    """Return the structured array `events` (E,) of one recording in tonic's own dtype, every event checked.

    Raises:
        DataError: as `pack_events`, or a field that is missing; `recording` is the number it names.
    """
    missing = [name for name in FIELDS if name not in (events.dtype.names or ())]
    if missing:
        raise DataError(
            f"recording {recording}: dtype {events.dtype} lacks {', '.join(missing)}; "
            f"an event array has the fields {', '.join(FIELDS)} (tonic.io.make_structured_array)"
        )
    offset = np.array([0] * (recording + 1) + [len(events)])
    return pack_events({name: events[name] for name in FIELDS}, offset, sensor_size)


def crop(events: NDArray, start_us: int, length_us: int) -> NDArray:
    """Return the events with start_us <= t < start_us + length_us: a view of `events`, in order of t."""
    first, last = np.searchsorted(events["t"], (start_us, start_us + length_us))
    return events[first:last]


def bin_events(
    events: NDArray, sensor_size: SensorSize, time_window_us: int, frames: int, start_us: int = 0
) -> NDArray[np.float32]:
    """Return event counts (T, P, H, W); frame k starts at start_us + k * time_window_us.

    Done by tonic's ToFrame. Events outside the T = `frames` windows are left out; empty windows are zero.

    Raises:
        DataError: more than 32767 events of one pixel in one window, which tonic cannot count.
    """
    from tonic.transforms import ToFrame

    height, width, polarities = sensor_size
    end_us = start_us + frames * time_window_us
    events = crop(events, start_us, end_us - start_us)
    if not len(events):  # for which ToFrame returns a single frame
        return np.zeros((frames, polarities, height, width), np.float32)
    to_frame = ToFrame(
        (width, height, polarities), time_window=time_window_us, start_time=start_us, end_time=end_us
    )
    counts = to_frame(events)
    if counts.sum(dtype=np.int64) != len(events):
        raise DataError(
            f"a pixel has more than 32767 events in one window of {time_window_us} us; "
            "choose a shorter time window"
        )
    return counts.astype(np.float32)


def _check_field(name: str, values: NDArray, offset: NDArray, limit: int) -> None:
    if not np.can_cast(values.dtype, np.float64, "same_kind"):
        raise DataError(f"{name} has dtype {values.dtype}; use integers")
    if values.dtype.kind == "f":
        _refuse(~np.isfinite(values), name, values, offset, "is not finite; remove such events")
        unit = "t is in whole microseconds" if name == "t" else "use integers"
        _refuse(values != np.floor(values), name, values, offset, f"is not a whole number; {unit}")
    _refuse((values < 0) | (values >= limit), name, values, offset, _ways_out(name, limit))


def _ways_out(name: str, limit: int) -> str:
    if name == "t":
        return "is negative or too large; subtract the recording's first time"
    if name == "p":
        return f"is outside 0..{limit - 1}; use 0 for darker and 1 for brighter"
    return f"is outside 0..{limit - 1}; correct it or the sensor_size (height, width, 2)"


def _refuse(wrong: NDArray[np.bool_], name: str, values: NDArray, offset: NDArray, why: str) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"{_place(name, at, offset)} = {values[at]} {why}")


def _place(name: str, at: int, offset: NDArray) -> str:
    recording = int(np.searchsorted(offset, at, side="right")) - 1
    return f"recording {recording}: {name}[{at - int(offset[recording])}]"
