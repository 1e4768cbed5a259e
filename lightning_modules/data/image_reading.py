"""Images and labels from one .npz file, as pixels or as JPEG files."""

import io
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from snn_async.data.archive import MAX_CLASSES, check_expansion, read_npz
from snn_async.errors import DataError

PIXELS, JPEG = ("image", "label"), ("jpeg", "offset", "label")


class Images(NamedTuple):
    """Images of one size: pixels (N, C, H, W) uint8, label (N,) int64."""

    pixels: NDArray[np.uint8]
    label: NDArray[np.int64]


def load_images(path: str | Path) -> Images:
    """Read and check an archive.

    Args:
        path: an .npz with `label` (N,), whole numbers from 0, and either `image`, (N, H, W) or (N, H, W, C)
            uint8, or `jpeg` and `offset` (N + 1,): image i is the JPEG file of the bytes
            jpeg[offset[i]:offset[i + 1]]. Other keys are left alone.

    Raises:
        DataError: a file that is absent or damaged, lacks keys, or holds images of several sizes, what is no
            image, or labels that do not fit; it names file, image and value.
    """
    keys = JPEG if "jpeg" in _keys(path) else PIXELS
    try:
        arrays = read_npz(path, keys)
    except DataError as error:
        raise DataError(
            f"{error}. Images are kept as {' + '.join(PIXELS)} or as {' + '.join(JPEG)}"
        ) from error
    try:
        pixels = _decoded(arrays["jpeg"], arrays["offset"]) if keys is JPEG else _checked(arrays["image"])
        return Images(pixels, _labels(arrays["label"], len(pixels)))
    except DataError as error:
        raise DataError(f"image archive {path}: {error}") from None


def _keys(path: str | Path) -> list[str]:
    """Return the keys of an .npz file; none for what `read_npz` refuses."""
    try:
        with ZipFile(path) as file:
            return [Path(name).stem for name in file.namelist()]
    except (OSError, BadZipFile):
        return []


def _checked(image: NDArray) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or 0 in image.shape:
        raise DataError(
            f"image has shape {image.shape} and dtype {image.dtype}; give (N, H, W) or (N, H, W, C) of uint8, at least "
            "one image"
        )
    channels_last = image if image.ndim == 4 else image[..., None]
    return np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2))


def _decoded(jpeg: NDArray, offset: NDArray) -> NDArray[np.uint8]:
    if jpeg.ndim != 1 or jpeg.dtype != np.uint8:
        raise DataError(f"jpeg has shape {jpeg.shape} and dtype {jpeg.dtype}; give the bytes, (E,) of uint8")
    if offset.ndim != 1 or offset.dtype.kind not in "iu" or len(offset) < 2:
        raise DataError(
            f"offset has shape {offset.shape} and dtype {offset.dtype}; give one more integer than there are images"
        )
    ends = offset.astype(np.int64)
    if ends[0] != 0 or ends[-1] != len(jpeg) or (np.diff(ends) < 0).any():
        raise DataError(
            f"offset runs from {ends[0]} to {ends[-1]}; it must rise from 0 to the number of bytes, {len(jpeg)}"
        )
    files = (jpeg[start:end].tobytes() for start, end in zip(ends, ends[1:], strict=False))
    first = _image(0, next(files))
    check_expansion((len(ends) - 1) * first.size, len(jpeg), "the images")
    pixels = np.empty((len(ends) - 1, *first.shape), np.uint8)
    pixels[0] = first
    for i, content in enumerate(files, start=1):
        pixel = _image(i, content)
        if pixel.shape != first.shape:
            raise DataError(
                f"image {i} is {_size(pixel)} and image 0 {_size(first)}; give all images one size and kind"
            )
        pixels[i] = pixel
    return _checked(pixels)


def _image(number: int, content: bytes) -> NDArray[np.uint8]:
    """Return a JPEG as (H, W, C), C 1 for gray ones, else 3."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            check_expansion(3 * image.width * image.height, len(content), f"image {number}")
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # foreign bytes
        raise DataError(
            f"image {number} ({len(content)} bytes) is no whole JPEG ({type(error).__name__}: {error}); write it again"
        ) from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _size(pixels: NDArray) -> str:
    return " x ".join(map(str, pixels.shape))


def _labels(label: NDArray, images: int) -> NDArray[np.int64]:
    if label.shape != (images,) or label.dtype.kind not in "iu":
        raise DataError(
            f"label has shape {label.shape} and dtype {label.dtype} for {images} images; give one integer each"
        )
    wrong = (label < 0) | (label >= MAX_CLASSES)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"label[{at}] = {label[at]}; number the classes from 0 to at most {MAX_CLASSES - 1}")
    return label.astype(np.int64)
