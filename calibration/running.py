"""Runs a float ONNX model over calibration data, several samples at once, and shows its tensors as they come."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from onnx import ValueInfoProto

from calibration.errors import CalibrationError, listed
from calibration.graph import activations, load_model

Array = NDArray[Any]
Feeds = Mapping[str, Array]
# takes tensors by name, the number of the first sample in them, and how many there are
Shown = Callable[[Feeds, int, int], object]

_FLOAT = "tensor(float)"
_DTYPES = {
    _FLOAT: np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_MOST_AT_ONCE = 4  # each run holds its own activations; further cores work inside the runs


@dataclass(frozen=True)
class Opened:
    """A model that gives, of each run, the float32 inputs (`given`) and activations (`fetched`) asked for."""

    session: Any
    given: tuple[str, ...]
    fetched: tuple[str, ...]
    at_once: int

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order they are computed."""
        return (*self.given, *self.fetched)


def open_model(
    onnx_path: Path, only: Collection[str] | None = None, threads: int = 0, in_order: bool = False
) -> Opened:
    """Open the model to watch its float32 inputs and activations, or those among them that `only` names.

    `threads` of the processor work on it, 0 for one per core; `in_order` lets no two runs overlap.

    Raises CalibrationError for a model that onnxruntime refuses, that has no float32 activation, or that lacks
    one that `only` names; one of another type is left out.
    """
    cores = threads or usable_cores()
    at_once = 1 if in_order else min(cores, _MOST_AT_ONCE)
    session, computed = _session(onnx_path, only, cores - at_once + 1)
    types = {value.name: value.type for value in session.get_outputs()}
    fetched = tuple(name for name in computed if types.get(name) == _FLOAT)
    given = tuple(v.name for v in session.get_inputs() if v.type == _FLOAT and (only is None or v.name in only))
    unknown = sorted(set(only or ()) - {*(value.name for value in session.get_inputs()), *computed})
    if unknown:
        raise CalibrationError(f"{onnx_path}: no activation is called {listed(unknown)}")
    if not fetched and only is None:
        raise CalibrationError(f"{onnx_path}: no float32 activation to quantize; export the model in float32")
    return Opened(session, given, fetched, at_once)


def run_batches(
    opened: Opened, batches: Iterable[Feeds], show: Shown, on_batch: Callable[[int], object] | None = None
) -> int:
    """Run the batches and show what was asked for of each run; return the number of samples.

    `batches` maps input names to arrays with samples along axis 0. A model with a static batch gets them in
    slices of its own size. `show` is called from several threads at once, unless the model was opened
    `in_order`. A batch is taken from `batches` when there is room for it: as many samples are in flight as runs
    overlap, or two slices. `on_batch(n)` is called when the n samples of a batch have been taken on.

    Raises CalibrationError for inputs that do not fit, a run that fails, or no samples, and whatever `show`
    raises: what came first in the data is raised first.
    """
    samples = 0
    inputs = opened.session.get_inputs()
    with ThreadPoolExecutor(opened.at_once) as pool:
        pending: deque[tuple[Future[None], int]] = deque()
        try:
            for batch in batches:
                before = samples
                for feeds, n in slices(batch, inputs):
                    while pending and not _room(pending, n, opened.at_once):
                        pending.popleft()[0].result()
                    pending.append((pool.submit(_one, opened, feeds, (samples, n), show), n))
                    samples += n
                if on_batch is not None:
                    on_batch(samples - before)
            while pending:
                pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()
    if not samples:
        raise CalibrationError("the calibration data has no samples: give at least one")
    return samples


def usable_cores() -> int:
    """Processors that this process may use; onnxruntime by itself counts those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def not_finite(name: str, array: Array, first: int, n: int) -> CalibrationError:
    """The error for a tensor with NaN or infinity, of `n` samples from number `first` on; it names the sample."""
    where = int(np.argmax(~np.isfinite(array)))
    per_sample = array.ndim > 0 and array.shape[0] == n
    sample = first + where // (array.size // n) if per_sample else first
    return CalibrationError(
        f"tensor {name!r} is NaN or infinite at calibration sample {sample} (counted from 0):"
        " check that sample, its preprocessing and the model's weights"
    )


def _room(pending: Collection[tuple[object, int]], n: int, at_once: int) -> bool:
    """Whether a slice of `n` more samples may be in flight."""
    return len(pending) < min(2, at_once) or sum(held for _, held in pending) + n <= at_once


def _one(opened: Opened, feeds: Feeds, where: tuple[int, int], show: Shown) -> None:
    """Run one slice, and show its tensors."""
    first, n = where
    show({name: feeds[name] for name in opened.given}, first, n)
    if not opened.fetched:  # none named means all outputs to onnxruntime
        return
    try:
        values: list[Array] = opened.session.run(list(opened.fetched), dict(feeds))
    except refusals() as error:
        raise CalibrationError(f"calibration sample {first}: onnxruntime cannot run it: {first_line(error)}") from None
    show(dict(zip(opened.fetched, values, strict=True)), first, n)


def _session(onnx_path: Path, only: Collection[str] | None, threads: int) -> tuple[Any, list[str]]:
    """Open the model with the activations asked for as outputs; return their names in the order of computing."""
    import onnxruntime as ort

    model = load_model(onnx_path, weights=False)
    inputs = {value.name for value in model.graph.input}
    computed = [n for n in activations(model.graph) if n not in inputs and (only is None or n in only)]
    known = {value.name for value in model.graph.output}
    # a value without a type: onnxruntime infers it, also where shape inference would not get through
    model.graph.output.extend(ValueInfoProto(name=name) for name in computed if name not in known)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # what a run held is free again for the next, whatever its shapes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # observers need the cores too
    folder = str(onnx_path.parent.resolve())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except refusals() as error:
        raise CalibrationError(f"{onnx_path}: onnxruntime cannot load it: {first_line(error)}") from None
    return session, computed


def refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime and protobuf raise, which have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        EncodeError,  # above 2 GB
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )


def first_line(error: Exception) -> str:
    """Return what an error says in its first line."""
    return str(error).strip().partition("\n")[0]


def slices(batch: Feeds, inputs: Sequence[Any]) -> Iterator[tuple[Feeds, int]]:
    """Cut a batch into pieces of the size that the model takes, each with its number of samples."""
    missing = [value.name for value in inputs if value.name not in batch]
    unknown = sorted(batch.keys() - {value.name for value in inputs})
    if missing or unknown:
        wrong = f"lacks input {listed(missing)}" if missing else f"has unknown input {listed(unknown)}"
        raise CalibrationError(f"the calibration data {wrong}; the model takes {_signature(inputs)}")
    pieces = {n for value in inputs if (n := _pieces(value, batch[value.name])) is not None} or {1}
    if len(pieces) > 1:
        raise CalibrationError(f"inputs differ in their number of samples; the model takes {_signature(inputs)}")
    count = pieces.pop()
    for i in range(count):
        # a copy: the caller may fill the array anew while this slice is in flight
        cut = {name: np.array(_piece(array, i, count)) for name, array in batch.items()}
        lengths = {len(array) for array in cut.values() if array.ndim}
        # where they differ, axis 0 is not the batch of all of them (of a model's state, say): one sample
        n = lengths.pop() if len(lengths) == 1 else 1
        if n:
            yield cut, n


def _pieces(value: Any, array: Array) -> int | None:
    """How many times the model's static batch fits into `array`; None where it takes any number."""
    shape = value.shape
    known = [(i, want) for i, want in enumerate(shape) if i and isinstance(want, int) and i < array.ndim]
    fits = array.ndim == len(shape) and all(array.shape[i] == want for i, want in known)
    dtype = _DTYPES.get(value.type)
    if not fits or (dtype is not None and array.dtype != dtype):
        got = f"{array.dtype} {array.shape}"
        raise CalibrationError(f"input {value.name!r} is {got} in the data; the model takes {_signature([value])}")
    if not shape or not isinstance(shape[0], int):
        return None
    times, rest = divmod(len(array), shape[0])
    if rest:
        raise CalibrationError(
            f"input {value.name!r} has {array.shape[0]} samples, the model takes {shape[0]} at once:"
            f" give a multiple of {shape[0]}"
        )
    return times


def _piece(array: Array, i: int, count: int) -> Array:
    """Part `i` of `count` equal ones along axis 0; a scalar belongs to every part."""
    if array.ndim == 0:
        return array
    size = len(array) // count
    return array[i * size : (i + 1) * size]


def _signature(inputs: Sequence[Any]) -> str:
    return ", ".join(f"{value.name}: {value.type[7:-1]} ({', '.join(str(d) for d in value.shape)})" for value in inputs)
