"""Runs parts of a float model in onnxruntime over calibration data, as often as it takes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto

from calibration.errors import CalibrationError, listed
from calibration.graph import drop_unread_initializers, index

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Batches = Callable[[], Iterable[Feeds]]  # gives the same batches each time: inputs by name, samples along axis 0


class Network:
    """A model opened to compute the tensors `fetch`, and nothing that they do not need."""

    def __init__(self, model: ModelProto, fetch: Sequence[str], threads: int = 0) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self._fetch = list(fetch)
        try:
            part = _part(model, self._fetch).SerializeToString()
            self._session = ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        except _refusals() as error:
            raise CalibrationError(f"onnxruntime cannot load the model: {_first_line(error)}") from None
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}

    def __call__(self, batches: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Yield the fetched tensors for each piece of each batch that the model takes at once."""
        for batch in batches:
            missing = [name for name in self._inputs if name not in batch]
            if missing:
                raise CalibrationError(f"the calibration data lacks input {listed(missing)}")
            given = {name: batch[name] for name in self._inputs}
            for feeds in _pieces(given, self._inputs):
                try:
                    yield dict(zip(self._fetch, self._session.run(self._fetch, feeds), strict=True))
                except _refusals() as error:
                    raise CalibrationError(f"onnxruntime cannot run the model: {_first_line(error)}") from None


def _part(model: ModelProto, fetch: Sequence[str]) -> ModelProto:
    """A copy of the model with the nodes that `fetch` depends on, and `fetch` as its outputs."""
    part = ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    if not index(graph).inner:  # what the bodies of If, Loop and Scan read does not show in their inputs
        kept = _needed(graph.node, fetch)
        del graph.node[:]
        graph.node.extend(kept)
        read = {name for node in kept for name in node.input} | set(fetch)
        inputs = [ValueInfoProto.FromString(v.SerializeToString()) for v in graph.input if v.name in read]
        del graph.input[:]
        graph.input.extend(inputs)
    del graph.output[:]
    graph.output.extend(ValueInfoProto(name=name) for name in fetch)
    drop_unread_initializers(graph)
    return part


def _needed(nodes: Sequence[NodeProto], fetch: Sequence[str]) -> list[NodeProto]:
    wanted = set(fetch)
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(NodeProto.FromString(node.SerializeToString()))
    return kept[::-1]


def _pieces(batch: Feeds, shapes: Mapping[str, Sequence[int | str]]) -> Iterator[Feeds]:
    """Cut a batch into pieces of the model's static batch size; a dynamic one takes it whole."""
    counts = set()
    for name, shape in shapes.items():
        if shape and isinstance(shape[0], int):
            if batch[name].ndim != len(shape) or len(batch[name]) % shape[0]:
                got = batch[name].shape
                raise CalibrationError(f"input {name!r} is {got} in the data; the model takes {tuple(shape)}")
            counts.add(len(batch[name]) // shape[0])
    if len(counts) > 1:
        raise CalibrationError(f"inputs {listed(shapes)} differ in their number of samples")
    count = counts.pop() if counts else 1
    for i in range(count):
        yield {name: _piece(array, i, count) for name, array in batch.items()}


def _piece(array: Array, i: int, count: int) -> Array:
    if array.ndim == 0 or count == 1:
        return array
    size = len(array) // count
    return np.asarray(array[i * size : (i + 1) * size])


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime and protobuf raise, which have no common base of their own."""
    from google.protobuf.message import EncodeError
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        EncodeError,  # above 2 GB
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
