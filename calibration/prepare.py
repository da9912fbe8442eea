"""Readies any float ONNX model for int8, so that Q/DQ pairs land where kernels are.

What can be computed ahead is, and nothing stands between ops that runtimes fuse.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from onnx import ModelProto, helper, version_converter

from calibration.affine import fold_affine
from calibration.errors import CalibrationError, listed
from calibration.graph import copy_with_constants_lifted, inferred, load_model, pool_spatial_means, without_weights
from calibration.hard_swish import OPSET as HARD_SWISH_OPSET
from calibration.hard_swish import hard_swishes, join_hard_swishes
from calibration.placement import LEAST_OPSET
from calibration.running import first_line, refusals
from calibration.saving import is_large, save_model

# Of what onnxruntime does at its basic level, not wanted: to write several ops as one that the model's makers
# did not use, which not every runtime has. Runtimes that have such a kernel find the pattern themselves.
_REWRITES = ["GeluFusionL1", "LayerNormFusionL1", "SliceConcatToSpaceToDepthFusion"]


def prepare(model: ModelProto) -> ModelProto:
    """Return the model that int8 is to be made of: the same function, inputs and outputs, up to rounding.

    BatchNormalization, Mul and Add with constants become part of the convolutions around them; what depends on
    no input is computed; Identity, Dropout, casts and transposes that cancel out, and the like are gone; spatial
    means are pools; a hard swish of several ops is one; opsets before 13 are converted to it (14 where there is
    such a swish); shapes that can be inferred are recorded. Most of it is onnxruntime's basic,
    hardware-independent optimization. Symbolic dimensions stay symbolic, metadata stays.

    Raises CalibrationError for a model that is quantized already, that cannot be brought to opset 13, or that
    onnxruntime refuses.
    """
    _check(model)
    ready = _optimized(_with_constants_fixed(copy_with_constants_lifted(_upgraded(model))))
    ready = pool_spatial_means(ready)
    if hard_swishes(ready):
        ready = join_hard_swishes(_upgraded(ready, HARD_SWISH_OPSET))
    ready = fold_affine(ready)
    _restore(ready, model)
    values = inferred(ready).value_info
    del ready.graph.value_info[:]
    ready.graph.value_info.extend(values)
    return ready


def _check(model: ModelProto) -> None:
    quantized = {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
    if quantized:
        raise CalibrationError(f"the model has {listed(sorted(quantized))} nodes already: give the float model")


def _opset(model: ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _upgraded(model: ModelProto, opset: int = LEAST_OPSET) -> ModelProto:
    """The model in this opset at least; the same object if it is."""
    if _opset(model) >= opset:
        return model
    try:
        upgraded = version_converter.convert_version(without_weights(model), opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        reason = first_line(error)
        raise CalibrationError(
            f"the model has opset {_opset(model)}, and onnx cannot convert it to {opset}, which int8 needs"
            f" ({reason}): export it again with opset {opset} or later"
        ) from None
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in upgraded.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(weights[tensor.name])
    return upgraded


def _with_constants_fixed(model: ModelProto) -> ModelProto:
    """The model, in place, with no initializer that a caller could replace, as old exporters write them all."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(list(model.opset_import), True))
    return model


def _optimized(model: ModelProto) -> ModelProto:
    """What onnxruntime makes of the model before it knows the hardware."""
    import onnxruntime as ort

    with TemporaryDirectory(prefix="edgesmith-") as name:
        given, written = Path(name, "given.onnx"), Path(name, "written.onnx")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 4
        if is_large(model):
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "written.data")
        save_model(model, given)
        try:
            ort.InferenceSession(str(given), options, ["CPUExecutionProvider"], disabled_optimizers=_REWRITES)
        except refusals() as error:
            reason = first_line(error).replace(f"{given}", "it")
            raise CalibrationError(f"onnxruntime cannot load the model: {reason}") from None
        return load_model(written)


def _restore(ready: ModelProto, model: ModelProto) -> None:
    """Give back, in place, what onnxruntime does not carry over, and drop what it adds: opsets that none uses."""
    domains = {node.domain for node in ready.graph.node} | {"", *(o.domain for o in model.opset_import)}
    opsets = [o for o in ready.opset_import if o.domain in domains]
    del ready.opset_import[:], ready.metadata_props[:]
    ready.opset_import.extend(opsets)
    ready.metadata_props.extend(model.metadata_props)
    ready.doc_string, ready.graph.doc_string = model.doc_string, model.graph.doc_string
    ready.producer_name, ready.producer_version = model.producer_name, model.producer_version
    ready.graph.name = model.graph.name
    for kept, values in ((ready.graph.input, model.graph.input), (ready.graph.output, model.graph.output)):
        known = {value.name: value for value in values}
        for value in kept:
            value.CopyFrom(known[value.name])
