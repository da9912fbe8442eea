"""Images as model inputs: decoded, resized, cropped and normalised as classifiers commonly want them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.extras import missing

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

Reader = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class Preparation:
    """How an image becomes an input.

    It is turned as its EXIF says, made RGB or grey as the model has 3 channels or 1, resized so that its shorter
    side fits, and cropped to the centre. A float input is `(x / 255 - mean) / std`, per channel or one for all;
    an integer input gets the bytes. NCHW or NHWC is read from the model's input.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None  # height, width; needed where the model takes any

    def reader(self, files: Sequence[Path], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Reader:
        """Return what reads files `start` to `stop` as `(n, …)`. Raises UserError for an input that is no image."""
        if why := missing("reading images", "images", "PIL"):
            raise UserError(why.replace(" PIL:", " Pillow:"))
        if dtype.kind == "f" and not (all(s > 0 for s in self.std) and len(self.mean) * len(self.std)):
            raise UserError(f"--std {self.std}: inputs are divided by it; give positive values")
        channels, last = _channels(name, shape)
        for option, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise UserError(f"--{option}: {len(values)} values, and the model takes {channels} channels")
        height, width = self._size(name, shape[1:3] if last else shape[2:4])

        def read(start: int, stop: int) -> NDArray[Any]:
            pixels: NDArray[Any] = np.stack([_pixels(path, channels, (height, width)) for path in files[start:stop]])
            if dtype.kind == "f":
                mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
                pixels = (pixels.astype(np.float32) / np.float32(255) - mean) / std
            return np.ascontiguousarray(pixels if last else pixels.transpose(0, 3, 1, 2)).astype(dtype, copy=False)

        return read

    def _size(self, name: str, wanted: tuple[int, ...]) -> tuple[int, int]:
        """Height and width: the model's, or where it takes any those that were given."""
        given = self.size or (-1, -1)
        sizes = [a if a > 0 else b for a, b in zip(wanted, given, strict=True)]
        if min(sizes) < 1:
            raise UserError(f"input {name!r} takes images of any size: say which with --size HEIGHTxWIDTH")
        if self.size and tuple(sizes) != self.size:
            raise UserError(f"--size {given[0]}x{given[1]}: input {name!r} takes {sizes[0]}x{sizes[1]}")
        return sizes[0], sizes[1]


def _channels(name: str, shape: tuple[int, ...]) -> tuple[int, bool]:
    """Number of channels, and whether they come last."""
    if len(shape) == 4:
        for axis, last in ((1, False), (3, True)):
            if shape[axis] in (1, 3):
                return shape[axis], last
    raise UserError(
        f"input {name!r} of shape {shape} takes no images (N, 3 or 1, H, W) or (N, H, W, 3 or 1); give arrays: .npz"
    )


def _pixels(path: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode one file to `(H, W, channels)` bytes."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
            image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"--data {path}: not a readable image ({error}); remove it, or save it again") from error
    return np.asarray(image, np.uint8).reshape(*size, channels)
