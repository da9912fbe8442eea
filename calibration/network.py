"""Runs parts of a float model in onnxruntime over calibration data, as often as it takes."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from onnx import ModelProto, NodeProto, ValueInfoProto

from calibration.errors import CalibrationError
from calibration.graph import drop_unread_initializers, index
from calibration.running import Array, Feeds, first_line, refusals, slices, usable_cores
from calibration.saving import openable

Batches = Callable[[], Iterable[Feeds]]  # gives the same batches each time: inputs by name, samples along axis 0


class Network:
    """A model opened to compute the tensors `fetch`, and nothing that they do not need."""

    def __init__(self, model: ModelProto, fetch: Sequence[str], threads: int = 0) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 4
        self._fetch = list(fetch)
        try:
            with openable(_part(model, self._fetch)) as part:
                self._session = ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        except refusals() as error:
            raise CalibrationError(f"onnxruntime cannot load the model: {first_line(error)}") from None
        self._inputs = self._session.get_inputs()

    def __call__(self, batches: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Yield the fetched tensors for each piece of each batch that the model takes at once."""
        names = {value.name for value in self._inputs}
        for batch in batches:
            for feeds, _ in slices({name: array for name, array in batch.items() if name in names}, self._inputs):
                try:
                    yield dict(zip(self._fetch, self._session.run(self._fetch, feeds), strict=True))
                except refusals() as error:
                    raise CalibrationError(f"onnxruntime cannot run the model: {first_line(error)}") from None


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
