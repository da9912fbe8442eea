"""How far the values of a tensor matter: beyond, the ops that read it cannot tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from onnx import NodeProto

from calibration.graph import Index, attributes

Reach = tuple[float, float]
_ALL = (-inf, inf)


def reaches(found: Index) -> Mapping[str, Reach]:
    """Return `(low, high)` of the tensors of which values below `low`, or above `high`, are as good as the bound.

    A hard swish is zero from -3 down: what a convolution writes there, often most of what it writes, takes steps
    from the values that matter if a range covers it.
    """
    known = {}
    for name, nodes in found.readers.items():
        if name in found.constants or name in found.outputs or name in found.inner:
            continue
        each = [_reach(node) for node in nodes]
        reach = min(low for low, _ in each), max(high for _, high in each)
        if reach != _ALL:
            known[name] = reach
    return known


def _reach(node: NodeProto) -> Reach:
    """Where an op that reads one tensor is not constant."""
    if node.op_type == "HardSwish":
        return -3.0, inf
    if node.op_type == "HardSigmoid":
        given = attributes(node)
        slope, middle = given.get("alpha", 0.2), given.get("beta", 0.5)
        ends = (-middle / slope, (1 - middle) / slope) if slope else _ALL
        return min(ends), max(ends)
    return _ALL
