"""Names of a model's nodes: every one has its own, and those that a user gives are found."""

import difflib
from collections.abc import Collection

from onnx import ModelProto, NodeProto

from calibration.errors import listed
from calibration.graph import Index, index, label
from pipeline.errors import UserError


def name_nodes(model: ModelProto) -> None:
    """Name every node, in place, as runtimes tell by name what they ran."""
    taken: set[str] = set()
    for node in model.graph.node:
        name = wanted = label(node)
        while name in taken:
            name = f"{wanted}_{len(taken)}"
        node.name = name
        taken.add(name)


def check_excluded(names: Collection[str], given: ModelProto, ready: ModelProto) -> None:
    """Raise UserError where `ready`, made of the model as `given`, has no node of one of these names."""
    left = [label(node) for node in ready.graph.node]
    missing = sorted(set(names) - set(left))
    if not missing:
        return
    known = {label(node): node for node in given.graph.node}
    if missing[0] in known:
        heir = _heir(known[missing[0]], index(given.graph), index(ready.graph))
        instead = f"it is part of {heir!r}: exclude that" if heir else "it is computed ahead, or does nothing"
        raise UserError(f"--exclude {missing[0]}: the model that int8 is made of has no such node any more, {instead}")
    near = difflib.get_close_matches(missing[0], left, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"--exclude: no op of the model is named {listed(missing)}{hint}")


def _heir(node: NodeProto, given: Index, ready: Index) -> str | None:
    """The node of the prepared model that computes what the output of `node` alone goes into."""
    at: NodeProto | None = node
    while at is not None:
        if at.output[0] in ready.producer:
            return label(ready.producer[at.output[0]])
        at = given.only_reader(at.output[0])
    return None
