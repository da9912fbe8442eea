"""Writing ONNX files: a protobuf message holds 2 GiB at most, so the weights of large models lie beside theirs."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto, helper

_MOST_IN_MESSAGE = 2**30  # bytes of weights; beyond it they go into a file of their own


def save_model(model: ModelProto, path: Path) -> None:
    """Write `model` to `path`; weights too large for one message go to `path` with `.data` behind it.

    `model` stays as it is, which takes a copy of those.
    """
    if not is_large(model):
        onnx.save(model, path)
        return
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # onnx would append to it
    copy = ModelProto()
    copy.CopyFrom(model)  # saving moves the weights out of the message
    onnx.save(copy, path, save_as_external_data=True, location=data.name)


def is_large(model: ModelProto) -> bool:
    """Whether the weights of `model` are too large for one message."""
    size = 0
    for tensor in model.graph.initializer:
        size += math.prod(tensor.dims) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return size > _MOST_IN_MESSAGE


@contextmanager
def openable(model: ModelProto | Path) -> Iterator[str | bytes]:
    """What onnxruntime opens: a path, or the bytes of a model that fits into a message."""
    if isinstance(model, Path):
        yield str(model)
    elif not is_large(model):
        yield model.SerializeToString()
    else:
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as folder:
            save_model(model, Path(folder) / "model.onnx")
            yield str(Path(folder) / "model.onnx")
