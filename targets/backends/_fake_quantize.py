"""Q/DQ pairs of an OpenVINO model as FakeQuantize, the form its own tools write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fold_pairs(model: Any) -> int:
    """Replace, in place, every pair of QuantizeLinear and DequantizeLinear by one FakeQuantize; return how many.

    Reading ONNX, OpenVINO makes five ops of a pair. It computes the same, but a pass that moves strides up to
    where several strided convolutions read one tensor puts its pooling between those five, and the convolutions
    stay in float: a ResNet-50 with strides in its 1 × 1 convolutions was 2.2 times slower (OpenVINO 2026.4).
    """
    from openvino import opset13 as ops

    folded = 0
    for quantize in model.get_ordered_ops():
        if quantize.get_type_name() != "FakeQuantize":
            continue
        stored = _only_reader(quantize, "Convert")
        back = stored and _only_reader(stored, "Convert")
        shift = back and _only_reader(back, "Subtract")
        unscaled = shift or back
        scaled = unscaled and _only_reader(unscaled, "Multiply")
        if not scaled:
            continue
        zero = _constant(shift, 1) if shift else np.zeros(1, np.float32)
        first, last, scale = (_constant(*of) for of in ((quantize, 3), (quantize, 4), (scaled, 1)))
        if zero is None or scale is None or first is None or last is None:
            continue
        low, high = (first - zero) * scale, (last - zero) * scale
        levels = int(quantize.get_attributes()["levels"])
        ports = (quantize.input_value(port) for port in range(3))
        pair = ops.fake_quantize(*ports, ops.constant(low), ops.constant(high), levels)
        pair.set_friendly_name(quantize.get_friendly_name())
        for reader in list(scaled.output(0).get_target_inputs()):
            reader.replace_source_output(pair.output(0))
        folded += 1
    model.validate_nodes_and_infer_types()
    return folded


def _only_reader(node: Any, kind: str) -> Optional[Any]:
    """What reads the output of `node`, if that is one op of this kind alone."""
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 and readers[0].get_type_name() == kind else None


def _constant(node: Any, port: int) -> Optional[NDArray[np.float32]]:
    """The float values of a constant input, which may be stored in another type."""
    source = node.input_value(port).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return source.get_data().astype(np.float32) if source.get_type_name() == "Constant" else None
