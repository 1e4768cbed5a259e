"""A simulated event camera that looks at still images while it makes three saccades, as N-MNIST was recorded.

Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades", 2015.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snn_async.data.events import EVENT_DTYPE, SensorSize
from snn_async.data.options import at_least, checked
from snn_async.errors import DataError

# (y, x) in units of the amplitude: down and right, up and right, and back to the left.
TRIANGLE = np.array([(-0.5, -0.5), (0.5, 0.0), (-0.5, 0.5), (-0.5, -0.5)])
# A level must be passed, not just reached: the image ends where it began, and rounding must decide no event.
BEYOND = 1 - 1e-9


@dataclass(frozen=True)
class SaccadeCamera:
    """An event camera's geometry, motion and pixel.

    Attributes:
        height, width: the sensor, in pixels.
        scale: sensor pixels per image pixel; what lies outside the image is black.
        amplitude: side of the triangle that the image moves along, in sensor pixels.
        saccade_us: duration of each of the three saccades, in microseconds, at constant speed.
        steps: simulated frames per saccade.
        threshold: change of log intensity that makes an event.
        dark: added to the intensity (0 to 1) before the logarithm.
        noise_hz: rate of the noise events of each pixel, of either polarity.

    Raises:
        ConfigError: a value outside its range.
    """

    height: int = 20
    width: int = 20
    scale: float = 2.0
    amplitude: float = 2.0
    saccade_us: int = 100_000
    steps: int = 20
    threshold: float = 0.2
    dark: float = 0.3
    noise_hz: float = 1.0

    def __post_init__(self) -> None:
        for name in ("height", "width", "saccade_us", "steps"):
            object.__setattr__(self, name, at_least(1, name, getattr(self, name)))
        for name in ("scale", "threshold", "dark"):
            wanted = "a finite number above 0"
            number = checked(float, name, getattr(self, name), lambda number: number > 0, wanted)
            object.__setattr__(self, name, number)
        for name in ("amplitude", "noise_hz"):
            wanted = "a finite number of at least 0"
            number = checked(float, name, getattr(self, name), lambda number: number >= 0, wanted)
            object.__setattr__(self, name, number)

    @property
    def sensor_size(self) -> SensorSize:
        """(H, W, 2)."""
        return self.height, self.width, 2

    @property
    def duration_us(self) -> int:
        """Length of a recording; its times are 0 <= t < duration_us."""
        return 3 * self.saccade_us

    def record(self, images: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray[np.int64]]:
        """Look at every image (N, H, W), intensities 0 to 1, and return the recordings.

        Returns:
            events: tonic's structured array (E,), each recording in order of time.
            offset: (N + 1,), recording i is events[offset[i]:offset[i + 1]].

        Raises:
            DataError: images of another shape, not finite or outside 0 to 1.
        """
        if images.ndim != 3:
            raise DataError(
                f"images of shape {images.shape}: the camera looks at (N, H, W); one image is images[None]"
            )
        if not ((images >= 0) & (images <= 1)).all():
            raise DataError(f"images from {images.min()} to {images.max()}: scale the intensities to 0..1")
        parts = [self._noise(len(images), rng), *self._crossings(images)]
        recording, pixel, time, polarity = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((polarity, pixel, time, recording))
        events = np.empty(len(order), EVENT_DTYPE)
        events["y"], events["x"] = np.divmod(pixel[order], self.width)
        events["t"] = np.minimum(time[order], self.duration_us - 1)
        events["p"] = polarity[order]
        counts = np.bincount(recording, minlength=len(images))
        return events, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def path(self) -> NDArray[np.float64]:
        """Return the image's displacement (y, x) in sensor pixels at each frame: (3 * steps + 1, 2)."""
        leg = np.arange(3 * self.steps + 1) / self.steps
        return self.amplitude * np.stack(
            [np.interp(leg, range(4), TRIANGLE[:, axis]) for axis in (0, 1)], axis=1
        )

    def view(self, images: NDArray, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log intensities (N, height * width) of images moved by shift (y, x) from the centre."""
        rows = _interpolation(self.height, images.shape[1], self.scale, shift[0])
        columns = _interpolation(self.width, images.shape[2], self.scale, shift[1])
        return np.log(rows @ images @ columns.T + self.dark).reshape(len(images), -1)

    def _crossings(self, images: NDArray) -> "list[_Columns]":
        path, parts = self.path(), []
        before = self.view(images, path[0])
        reference = before.copy()  # the log intensity at each pixel's last event
        step_us = self.saccade_us / self.steps
        for k, shift in enumerate(path[1:]):
            now = self.view(images, shift)
            crossed = np.trunc((now - reference) / self.threshold * BEYOND).astype(np.int64)
            recording, pixel = np.nonzero(crossed)
            count = crossed[recording, pixel]
            each = np.repeat(np.arange(len(count)), abs(count))
            nth = np.arange(len(each)) - np.searchsorted(each, each) + 1
            recording, pixel, sign = recording[each], pixel[each], np.sign(count)[each]
            start, end = before[recording, pixel], now[recording, pixel]
            level = reference[recording, pixel] + sign * nth * self.threshold
            time = (k + (level - start) / (end - start)) * step_us
            parts.append(_Columns(recording, pixel, np.maximum(time, 0).astype(np.int64), sign > 0))
            reference += crossed * self.threshold
            before = now
        return parts

    def _noise(self, recordings: int, rng: np.random.Generator) -> "_Columns":
        pixels = self.height * self.width
        counts = rng.poisson(self.noise_hz * pixels * self.duration_us * 1e-6, recordings)
        total = int(counts.sum())
        return _Columns(
            np.repeat(np.arange(recordings), counts),
            rng.integers(0, pixels, total),
            rng.integers(0, self.duration_us, total),
            rng.random(total) < 0.5,
        )


class _Columns(NamedTuple):
    recording: NDArray
    pixel: NDArray
    time: NDArray
    polarity: NDArray


def _interpolation(sensor: int, image: int, scale: float, shift: float) -> NDArray[np.float64]:
    """Return weights (sensor, image) that interpolate a line of an image at the sensor's pixels."""
    at = (np.arange(sensor) - (sensor - 1) / 2 - shift) / scale + (image - 1) / 2
    return np.maximum(0.0, 1.0 - abs(at[:, None] - np.arange(image)))
