"""The idx format of the MNIST family: magic, one big-endian size per dimension, then the bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

_UINT8 = 0x08  # type code in the third byte of the magic
_FIX = "replace it by the original file"


def find(folder: Path, name: str) -> Path:
    """Return the path of `name` or `name.gz` in `folder`. Raises UserError where neither exists."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder}: no {name} or {name}.gz there; give the folder that holds the four idx files")


def read(path: Path, dims: int) -> NDArray[np.uint8]:
    """Read a uint8 array of `dims` dimensions from an idx file, gzipped or not. Raises UserError."""
    raw = _bytes(path)
    head = 4 + 4 * dims
    if len(raw) < head or raw[:4] != bytes((0, 0, _UINT8, dims)):
        raise UserError(f"{path}: not an idx file of {dims}-dimensional uint8 data (wrong magic); {_FIX}")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dims, offset=4))
    if len(raw) - head != math.prod(shape):
        raise UserError(f"{path}: holds {len(raw) - head} bytes of data, its header says {math.prod(shape)}; {_FIX}")
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_FIX}") from error
