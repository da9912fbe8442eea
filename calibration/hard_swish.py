"""Hard swish that exporters wrote as several ops, as one (Howard et al., MobileNetV3, ICCV 2019, section 5.2)."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from calibration.graph import Index, copy_with_constants_lifted, drop_unread_initializers, index
from calibration.pairs import clip_bounds

OPSET = 14  # the first that has HardSwish


def hard_swishes(model: ModelProto) -> int:
    """Return how many `x * clip(x + 3, 0, 6) / 6` there are, multiplied or divided first.

    Of a model whose constants are initializers, as `prepare` makes them.
    """
    found = index(model.graph)
    return sum(_parts(node, found) is not None for node in model.graph.node)


def join_hard_swishes(model: ModelProto) -> ModelProto:
    """Return a copy of a model of opset 14 or later in which each of them is a HardSwish.

    PaddlePaddle and older torch write four ops, which onnxruntime runs one by one; between int8 convolutions such
    passes over a tensor are most of what is left to wait for. OpenVINO joins these four and knows HardSwish, but
    was measured 1.7 times slower with what HardSwish stands for, a HardSigmoid and a Mul.
    """
    joined = copy_with_constants_lifted(model)
    found = index(joined.graph)
    gone: set[str] = set()
    for node in joined.graph.node:
        parts = _parts(node, found)
        if parts is not None:
            first, *between, last = parts
            gone.update(part.output[0] for part in (first, *between))
            last.op_type = "HardSwish"
            last.input[:] = [_scaled(first, found)[0]]
    kept = [node for node in joined.graph.node if node.output[0] not in gone]
    del joined.graph.node[:]
    joined.graph.node.extend(kept)
    drop_unread_initializers(joined.graph)
    return joined


def _parts(clip: NodeProto, found: Index) -> list[NodeProto] | None:
    """The four nodes of a hard swish, in the order they are computed, if `clip` is the second."""
    if clip.op_type != "Clip" or clip_bounds(clip, found.constants) != (0, 6):
        return None
    shift = found.producer.get(clip.input[0])
    third = found.only_reader(clip.output[0])
    last = found.only_reader(third.output[0]) if third is not None else None
    if shift is None or third is None or last is None or found.only_reader(shift.output[0]) is not clip:
        return None
    x, offset = _scaled(shift, found)
    if shift.op_type != "Add" or offset != 3:
        return None
    for product, quotient, clipped in ((third, last, clip.output[0]), (last, third, third.output[0])):
        if product.op_type == "Mul" and sorted(product.input) == sorted((x, clipped)) and _is_sixth(quotient, found):
            return [shift, clip, third, last]
    return None


def _scaled(node: NodeProto, found: Index) -> tuple[str, float | None]:
    """What a node reads, and the constant of one value that it adds, multiplies or divides it by."""
    for data, by in ((0, 1), (1, 0)) if node.op_type != "Div" else ((0, 1),):
        constant = found.constants.get(node.input[by]) if len(node.input) == 2 else None
        value = numpy_helper.to_array(constant) if constant is not None else None
        if value is not None and value.size == 1:
            return node.input[data], float(value.reshape(()))
    return node.input[0], None


def _is_sixth(node: NodeProto, found: Index) -> bool:
    by = _scaled(node, found)[1]
    if by is None:
        return False
    return (node.op_type == "Div" and by == 6) or (node.op_type == "Mul" and bool(np.isclose(by * 6, 1, rtol=1e-5)))
