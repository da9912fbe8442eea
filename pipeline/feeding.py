"""Calibration data of any ONNX model, as the calls it is run with: arrays, files of them, or images."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.images import SUFFIXES, Preparation

Array = NDArray[Any]
Feeds = Mapping[str, Array]

TOGETHER = 16  # samples of one call, where the model takes any number
CALL_BYTES = 64_000_000  # that a call of several samples may take at most


@dataclass(frozen=True)
class Input:
    """An input of a model; a dynamic dimension reads -1."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(str(d) if d >= 0 else '?' for d in self.shape)})"


@dataclass(frozen=True)
class Calls:
    """Data as calls of a model: `count` samples, `batch` of them in a call. Iterating reads each anew."""

    count: int
    batch: int
    read: Callable[[int, int], Feeds]  # samples `start` to `stop`, as the model takes them
    start: int = 0
    fixed: bool = False  # whether the model takes `batch` samples at once and no other number

    def __len__(self) -> int:
        return (self.count + self.batch - 1) // self.batch

    def __iter__(self) -> Iterator[Feeds]:
        stop = self.start + self.count
        for start in range(self.start, stop, self.batch):
            yield self.read(start, min(start + self.batch, stop))

    def part(self, start: int, count: int) -> "Calls":
        """Up to `count` samples from `start` on; where the batch is fixed, whole calls: at least one, if there is."""
        step = self.batch if self.fixed else 1
        start = start // step * step
        left = max(self.count - start, 0)
        return replace(self, start=self.start + start, count=min(max(count // step, 1) * step, left))


def inputs_of(model: onnx.ModelProto, path: Path) -> tuple[Input, ...]:
    """Return what the model must be given. Raises UserError for what no array can be."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value, path) for value in model.graph.input if value.name not in constants)


def folds_of(calls: Calls, most: int) -> tuple[list[Calls], list[Calls]]:
    """Two parts of up to `most` samples to judge on, judged by what all else shows; and the rest.

    A part is at least one call and at most half of all; there are none where all samples are in one call, and no
    rest where the parts are all of them.
    """
    step = calls.batch if calls.fixed else 1
    size = min(max(most // step, 1), calls.count // step // 2) * step
    folds = [calls.part(start, size) for start in (0, size)] if size else []
    return folds, [calls.part(2 * size, calls.count)] if calls.count > 2 * size else []


def _input(value: onnx.ValueInfoProto, path: Path) -> Input:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.elem_type:
        raise UserError(f"{path}: input {value.name!r} is no tensor; export the model with tensors as inputs")
    if kind.elem_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE):
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise UserError(
            f"{path}: input {value.name!r} is {name}; int8 starts from float32: export the model in float32"
        )
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return Input(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape)


def calls_from(data: Path, inputs: tuple[Input, ...], preparation: Preparation) -> Calls:
    """Read `data` for a model with `inputs`. Raises UserError for data that it does not take.

    * `.npz`: arrays by input name, samples along axis 0; scalars go into every call.
    * `.npy`: samples along axis 0, for a model with one input.
    * a folder of `.npy` files: one sample each, without the batch axis, for a model with one input.
    * a folder of `.npz` files: one call each, arrays by input name, shaped as the model takes them.
    * a folder of images, for a model with one image input; see `Preparation`.
    """
    if data.is_dir():
        return _folder(data, inputs, preparation)
    if not data.is_file():
        raise UserError(f"--data {data}: there is no such file or folder")
    if data.suffix in SUFFIXES:
        raise UserError(f"--data {data}: one image; give the folder with all of them")
    return _table(data, inputs)


def _folder(data: Path, inputs: tuple[Input, ...], preparation: Preparation) -> Calls:
    files = sorted(path for path in data.rglob("*") if path.is_file())
    arrays = [path for path in files if path.suffix == ".npy"]
    calls = [path for path in files if path.suffix == ".npz"]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    kinds = [kind for kind in (arrays, calls, images) if kind]
    if len(kinds) != 1:
        found = "no .npy, .npz or image files" if not kinds else "files of several kinds"
        raise UserError(f"--data {data}: the folder has {found}; give .npy, .npz or {', '.join(SUFFIXES)}, one kind")
    if calls:
        return Calls(len(calls), 1, lambda start, _: _call(calls[start], inputs))
    (only,) = _one(inputs, data)
    if images:
        read = preparation.reader(images, only.name, only.shape, only.dtype)
        return _batched(len(images), inputs, lambda start, stop: {only.name: read(start, stop)}, data)

    def stacked(start: int, stop: int) -> Feeds:
        samples = [_load(path) for path in arrays[start:stop]]
        for path, sample in zip(arrays[start:stop], samples, strict=True):
            _check(sample[None], only, path)
            if sample.shape != samples[0].shape:
                raise UserError(f"--data {path}: its shape differs from that of {arrays[start].name}")
        return {only.name: _cast(np.stack(samples), only, arrays[start])}

    return _batched(len(arrays), inputs, stacked, data)


def _table(data: Path, inputs: tuple[Input, ...]) -> Calls:
    """Arrays with samples along axis 0."""
    arrays = _archive(data, inputs)
    for value in inputs:
        _check(arrays[value.name], value, data)
    counts = {len(array) for array in arrays.values() if array.ndim}
    if len(counts) > 1:
        told = ", ".join(f"{name} {len(array)}" for name, array in arrays.items() if array.ndim)
        raise UserError(
            f"--data {data}: the inputs differ in their number of samples ({told});"
            " give as many of each along axis 0, or a folder of .npz files, one call each"
        )
    if not counts or counts == {0}:
        raise UserError(f"--data {data}: holds no samples")

    def read(start: int, stop: int) -> Feeds:
        cut = {v.name: arrays[v.name][start:stop] if arrays[v.name].ndim else arrays[v.name] for v in inputs}
        return {v.name: _cast(np.ascontiguousarray(cut[v.name]), v, data) for v in inputs}

    return _batched(counts.pop(), inputs, read, data)


def _batched(count: int, inputs: tuple[Input, ...], read: Callable[[int, int], Feeds], data: Path) -> Calls:
    """Calls of the model's own batch; of 16 samples, or as many as fit into 64 MB, where it takes any number."""
    static = {value.shape[0] for value in inputs if value.shape and value.shape[0] >= 0}
    if len(static) > 1:
        raise UserError(
            f"--data {data}: the first dimensions of the inputs ({', '.join(map(str, inputs))}) are no common batch;"
            " give a folder of .npz files, one call each"
        )
    if static:
        batch = static.pop()
        if count < batch:
            raise UserError(f"--data {data}: {count} samples, and the model takes {batch} at once; give more")
        return Calls(count // batch * batch, batch, read, fixed=True)
    one = sum(array.nbytes for array in read(0, 1).values())
    return Calls(count, max(1, min(TOGETHER, CALL_BYTES // max(one, 1))), read)


def _archive(data: Path, inputs: tuple[Input, ...]) -> dict[str, Array]:
    """The arrays of a file by input name; one that is alone needs no name."""
    if data.suffix == ".npy":
        (only,) = _one(inputs, data)
        return {only.name: _load(data, mapped=True)}
    arrays = _named(data)
    if len(inputs) == len(arrays) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    lacking = [str(value) for value in inputs if value.name not in arrays]
    if lacking:
        raise UserError(f"--data {data}: has the arrays {', '.join(arrays)}; the model also takes {'; '.join(lacking)}")
    return {value.name: arrays[value.name] for value in inputs}


def _call(path: Path, inputs: tuple[Input, ...]) -> Feeds:
    arrays = _archive(path, inputs)
    for value in inputs:
        _check(arrays[value.name], value, path, whole=True)
    return {value.name: _cast(arrays[value.name], value, path) for value in inputs}


def _one(inputs: tuple[Input, ...], data: Path) -> tuple[Input]:
    if len(inputs) != 1:
        told = "; ".join(map(str, inputs)) or "nothing"
        raise UserError(f"--data {data}: the model takes {told}: give an .npz file with an array for each input")
    return (inputs[0],)


def _check(array: Array, value: Input, path: Path, whole: bool = False) -> None:
    """Compare shapes; the first dimension counts samples, unless the array is one whole call."""
    fits = array.ndim == len(value.shape) and all(
        want in (-1, got) for i, (want, got) in enumerate(zip(value.shape, array.shape, strict=True)) if i or whole
    )
    if not fits:
        raise UserError(f"--data {path}: {array.dtype} of shape {array.shape} for input {value}; give that shape")


def _cast(array: Array, value: Input, path: Path) -> Array:
    """Numbers in the input's type: any into float32, whole numbers into integers that hold them."""
    if array.dtype == value.dtype:
        return array
    cast = array.astype(value.dtype) if array.dtype.kind in "buif" else None
    if cast is None or (value.dtype.kind != "f" and not np.array_equal(cast, array)):
        raise UserError(f"--data {path}: {array.dtype} values for input {value}; store them as {value.dtype}")
    return cast


def _load(path: Path, mapped: bool = False) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"--data {path}: not a readable .npy file ({error}); use np.save") from error
    return found


def _named(path: Path) -> dict[str, Array]:
    try:
        # Opened here, as numpy leaves a file that it cannot read open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UserError(f"--data {path}: a single array; name the file .npy")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"--data {path}: not a readable .npz file of plain arrays ({error}); use np.savez") from error
