"""Runs a float ONNX model over calibration data and watches all of its activations, one batch at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ValueInfoProto

from calibration.errors import CalibrationError, listed
from calibration.graph import activations, digest, load_model
from calibration.observers.base import Extremes, NonFiniteError, Observer, Seen
from calibration.ranges import Ranges, TensorRange

Array = NDArray[Any]
Feeds = Mapping[str, Array]

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


def collect(
    onnx_path: Path,
    batches: Iterable[Feeds],
    observer: Observer[Any],
    on_batch: Callable[[int], object] | None = None,
    threads: int = 0,
) -> Ranges:
    """Return the ranges that `observer` chooses for every float32 activation of the model.

    `batches` maps input names to arrays with samples along axis 0. A model with a static batch gets them in
    slices of its own size. Nothing is kept of a batch but what the observer remembers. `on_batch(n)` is
    called after each batch with its number of samples; `threads` is onnxruntime's, 0 for one per core.

    Raises CalibrationError for inputs that do not fit, NaN or infinity in data or activations, or no data.
    """
    key = digest(load_model(onnx_path))
    session, computed = _session(onnx_path, threads)
    inputs = session.get_inputs()
    given = [value.name for value in inputs if value.type == _FLOAT]
    types = {value.name: value.type for value in session.get_outputs()}
    fetched = [name for name in computed if types.get(name) == _FLOAT]
    seen = {name: observer.start() for name in (*given, *fetched)}
    if not fetched:
        raise CalibrationError(f"{onnx_path}: no float32 activation to quantize; export the model in float32")
    samples = 0
    for batch in batches:
        before = samples
        for feeds, n in _slices(batch, inputs):
            _watch(seen, {name: feeds[name] for name in given}, samples, n)
            values = _run(session, fetched, feeds, samples)
            _watch(seen, dict(zip(fetched, values, strict=True)), samples, n)
            samples += n
        if on_batch is not None:
            on_batch(samples - before)
    if not samples:
        raise CalibrationError("the calibration data has no samples: give at least one")
    return Ranges(_chosen(seen, observer), samples, observer.name(), observer.options, key)


def _chosen(seen: Mapping[str, Seen], observer: Observer[Seen]) -> dict[str, TensorRange]:
    return {
        name: TensorRange(memory.minimum, memory.maximum, *observer.range(memory))
        for name, memory in seen.items()
        if memory.count  # a tensor may be empty for every sample, as a list of detections is
    }


def _session(onnx_path: Path, threads: int) -> tuple[Any, list[str]]:
    """Open the model with every activation as an output; return their names in the order of computing."""
    import onnxruntime as ort

    model = load_model(onnx_path, weights=False)
    computed = [name for name in activations(model.graph) if name not in {v.name for v in model.graph.input}]
    known = {value.name for value in model.graph.output}
    # a value without a type: onnxruntime infers it, also where shape inference would not get through
    model.graph.output.extend(ValueInfoProto(name=name) for name in computed if name not in known)
    options = ort.SessionOptions()
    # every tensor is an output, so there is nothing to fuse, and what runs is the graph as written
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    folder = str(onnx_path.parent.resolve())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except _refusals() as error:
        raise CalibrationError(f"{onnx_path}: onnxruntime cannot load it: {_first_line(error)}") from None
    return session, computed


def _run(session: Any, names: list[str], feeds: Feeds, first: int) -> list[Array]:
    try:
        values: list[Array] = session.run(names, dict(feeds))
    except _refusals() as error:
        raise CalibrationError(f"calibration sample {first}: onnxruntime cannot run it: {_first_line(error)}") from None
    return values


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises, which has no common base of its own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _slices(batch: Feeds, inputs: Sequence[Any]) -> Iterator[tuple[Feeds, int]]:
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
        cut = {name: _piece(array, i, count) for name, array in batch.items()}
        n = max((len(array) for array in cut.values() if array.ndim), default=1)
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


def _watch(seen: Mapping[str, Extremes], tensors: Feeds, first: int, n: int) -> None:
    """Show the observers what `n` samples, from number `first` on, gave."""
    for name, array in tensors.items():
        try:
            seen[name].update(array)
        except NonFiniteError as error:
            per_sample = array.ndim > 0 and array.shape[0] == n
            sample = first + error.where // (array.size // n) if per_sample else first
            raise CalibrationError(
                f"tensor {name!r} is NaN or infinite at calibration sample {sample} (counted from 0):"
                " check that sample, its preprocessing and the model's weights"
            ) from None
