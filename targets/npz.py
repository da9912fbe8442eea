"""Reading and writing `.npz` files batch by batch: a data set need not fit in the device's memory."""

from __future__ import annotations

import tempfile
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np
from numpy.lib import format as npy

from targets.base import TargetError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Header:
    """What an array is, without its data."""

    shape: Tuple[int, ...]
    dtype: np.dtype[Any]


@contextmanager
def reader(path: Path) -> Iterator[Dict[str, Header]]:
    """Read only the headers: array name to shape and type. Raises TargetError for anything but .npz."""
    with _opened(path) as (headers, _):
        yield headers


def batches(path: Path, size: int) -> Iterator[Tuple[Dict[str, NDArray[Any]], int]]:
    """Yield `(arrays, valid)`: every array's next `size` samples, and how many are real.

    The last batch is padded to `size` with its own last sample. Raises TargetError if the arrays differ in
    length, are empty, hold objects, or were stored in Fortran order.
    """
    with _opened(path) as (headers, files):
        total = _samples(path, headers)
        for start in range(0, total, size):
            valid = min(size, total - start)
            yield {n: _padded(_read(files[n], h, valid), size) for n, h in headers.items()}, valid


def first(path: Path, size: int) -> Dict[str, NDArray[Any]]:
    """Return the first batch of `size` samples; all of the file where its arrays do not count samples alike.

    A model may take a scalar, or a state whose first dimension is no batch: its file holds one whole call.
    Raises TargetError as `batches` does.
    """
    with _opened(path) as (headers, files):
        lengths = {header.shape[:1] for header in headers.values()}
        if len(lengths) > 1:
            return {n: _read(files[n], h, h.shape[0]) if h.shape else _scalar(files[n], h) for n, h in headers.items()}
    return next(batches(path, size))[0]


def save(path: Path | IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as they are, uncompressed: a batch where they have one length, or one call of a model."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, np.asarray(array, order="C"), allow_pickle=False)


def write(path: Path, batches_of: Iterator[Mapping[str, NDArray[Any]]], total: int) -> None:
    """Write batches of `total` samples in all, concatenated, as one uncompressed `.npz` file.

    A zip archive takes one member at a time, so each array grows in a file of its own beside `path` first.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, ExitStack() as stack:
        parts: Dict[str, IO[bytes]] = {}
        for outputs in batches_of:
            for name, array in outputs.items():
                if name not in parts:
                    parts[name] = stack.enter_context((Path(folder) / str(len(parts))).open("wb"))
                    _start(parts[name], array, total)
                parts[name].write(np.ascontiguousarray(array).tobytes())
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, part in parts.items():
                part.close()
                archive.write(part.name, f"{name}.npy")


def _start(part: IO[bytes], first: NDArray[Any], total: int) -> None:
    shape = (total, *first.shape[1:])
    header = {"descr": npy.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(part, header)


@contextmanager
def _opened(path: Path) -> Iterator[Tuple[Dict[str, Header], Dict[str, IO[bytes]]]]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            names: List[str] = archive.namelist()
            files = {n[: -len(".npy")]: stack.enter_context(archive.open(n)) for n in names if n.endswith(".npy")}
            headers = {name: _header(path, name, file) for name, file in files.items()}
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise TargetError(f"{path} is not a readable .npz file: {error}") from error
        yield headers, files


def _header(path: Path, name: str, file: IO[bytes]) -> Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise TargetError(f"{path}: array {name} holds Python objects; store numbers")
    if fortran and len(shape) > 1:
        raise TargetError(f"{path}: array {name} is in Fortran order; store np.ascontiguousarray(...)")
    return Header(tuple(shape), dtype)


def _samples(path: Path, headers: Mapping[str, Header]) -> int:
    """Return the length that all arrays share."""
    lengths = {name: header.shape[0] if header.shape else 0 for name, header in headers.items()}
    if len(set(lengths.values())) != 1:
        raise TargetError(f"{path}: arrays must have one length, have {lengths or 'no array'}")
    total = next(iter(lengths.values()))
    if total == 0:
        raise TargetError(f"{path}: no samples")
    return total


def _read(file: IO[bytes], header: Header, count: int) -> NDArray[Any]:
    shape = (count, *header.shape[1:])
    size = int(np.prod(shape)) * header.dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise TargetError(f"an array ends early: {header.shape} was promised")
    return np.frombuffer(data, header.dtype).reshape(shape)


def _scalar(file: IO[bytes], header: Header) -> NDArray[Any]:
    return np.frombuffer(file.read(header.dtype.itemsize), header.dtype).reshape(())


def _padded(array: NDArray[Any], size: int) -> NDArray[Any]:
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
