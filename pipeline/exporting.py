"""From a torch module to an ONNX file that is proved to compute the same."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.affine import fold_affine
from calibration.graph import pool_spatial_means
from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]
Batch = int | Literal["dynamic"]
INPUT, OUTPUT = "input", "output"
TOLERANCE = 1e-3  # of the largest output; kernels of two runtimes differ by about 1e-6


def to_onnx(
    model: "nn.Module",
    samples: NDArray[np.float32],
    path: Path,
    batch: Batch = 1,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Export `model` (in eval mode, BatchNorm folded) and compare the two on `samples` `(N, ...)`.

    The batch dimension is fixed to `batch`, or free. Returns the largest |Δ| of the outputs. Raises UserError
    if the model cannot be captured or the exported one disagrees.
    """
    import torch

    model = model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        model = model.to("cpu")
    count = 2 if batch == "dynamic" else batch
    example = torch.from_numpy(np.resize(samples, (count, *samples.shape[1:])))
    shapes = ({0: torch.export.Dim("batch")},) if batch == "dynamic" else None
    with warnings.catch_warnings():
        # torch's own deprecations inside its exporter; nothing a user could act on
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                model, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, input_names=[INPUT]
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"the model cannot be exported to ONNX: {_first_line(error)}") from error
    if program is None:
        raise UserError("the model cannot be exported to ONNX: the exporter returned nothing")
    proto = pool_spatial_means(fold_affine(_with_names(program.model_proto)))
    describe(proto, metadata or {})
    onnx.save(proto, path)
    return agreement(model, path, samples, batch)


def describe(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Write `metadata` into the model, replacing what has the same key."""
    kept = {p.key: p.value for p in proto.metadata_props} | dict(metadata)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(sorted(kept.items())))


def metadata_of(preprocessing: Mapping[str, str], classes: tuple[str, ...]) -> dict[str, str]:
    """What a program that runs the model must know: how to make its input and read its output."""
    return {
        "edgesmith.preprocessing": json.dumps(dict(preprocessing), sort_keys=True),
        "edgesmith.classes": json.dumps(list(classes)),
    }


def shapes_of(proto: onnx.ModelProto) -> dict[str, Shape]:
    """Input shapes by name, with 1 for a dynamic dimension."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in proto.graph.input
        if value.name not in constants
    }


def agreement(model: "nn.Module", path: Path, samples: NDArray[np.float32], batch: Batch) -> float:
    """Return the largest |Δ| of the file's outputs from the module's. Raises UserError above TOLERANCE."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    step = len(samples) if batch == "dynamic" else batch
    worst, scale = 0.0, 1e-12
    samples = np.resize(samples, (max(step, len(samples) // step * step), *samples.shape[1:]))
    for start in range(0, len(samples), step):
        x = samples[start : start + step]
        with torch.inference_mode():
            expected = _flat(model(torch.from_numpy(x.copy())))  # a forward may work in place on its input
        for a, b in zip(expected, session.run(None, {INPUT: x}), strict=True):
            if not np.isfinite(b).all():
                raise UserError("the exported model gives NaN or infinity on calibration samples; check its weights")
            worst = max(worst, float(np.abs(a - b).max(initial=0)))
            scale = max(scale, float(np.abs(a).max(initial=0)))
    if not worst <= TOLERANCE * scale:
        raise UserError(f"the exported ONNX differs from the model: by {worst:.3g} of {scale:.3g}")
    return worst


def _flat(output: Any) -> list[NDArray[Any]]:
    if isinstance(output, tuple | list):
        return [array for part in output for array in _flat(part)]
    return [output.float().numpy()]


def _with_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    outputs = [value.name for value in proto.graph.output]
    names = [OUTPUT] if len(outputs) == 1 else [f"{OUTPUT}_{i}" for i in range(len(outputs))]
    renamed = dict(zip(outputs, names, strict=True))
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*proto.graph.output, *proto.graph.value_info):
        value.name = renamed.get(value.name, value.name)
    return proto


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
