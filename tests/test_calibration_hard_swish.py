"""Hard swish in four ops becomes one, and nothing else does."""

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from calibration_nets import model, node
from onnx import ModelProto, NodeProto

from calibration.hard_swish import hard_swishes, join_hard_swishes
from calibration.prepare import prepare

CONSTANTS = {name: np.array(value, np.float32) for name, value in {"three": 3, "six": 6, "sixth": 1 / 6}.items()}
CONSTANTS |= {"zero": np.array(0, np.float32), "other": np.array(2.5, np.float32)}


def four(order: str, division: str, swapped: bool) -> list[NodeProto]:
    """x · clip(x + 3, 0, 6) / 6, multiplied or divided first."""
    ab = (lambda a, b: [b, a]) if swapped else (lambda a, b: [a, b])
    divide = ("Div", "six") if division == "Div" else ("Mul", "sixth")
    nodes = [node("Add", ab("x", "three"), "a"), node("Clip", ["a", "zero", "six"], "c")]
    if order == "multiplied":
        return [*nodes, node("Mul", ab("x", "c"), "m"), node(divide[0], ["m", divide[1]], "y")]
    return [*nodes, node(divide[0], ["c", divide[1]], "d"), node("Mul", ab("d", "x"), "y")]


def graph(nodes: list[NodeProto], opset: int = 17) -> ModelProto:
    return model(nodes, CONSTANTS, (1, 2, 5, 5), opset=opset)


def kinds(of: ModelProto) -> list[str]:
    return [n.op_type for n in of.graph.node]


def run(of: ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).normal(0, 4, (1, 2, 5, 5)).astype(np.float32)
    session = ort.InferenceSession(of.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("order", "division", "swapped"), list(product(("multiplied", "divided"), ("Div", "Mul"), (False, True)))
)
def test_every_spelling_is_joined(order: str, division: str, swapped: bool):
    given = graph(four(order, division, swapped))
    joined = join_hard_swishes(given)
    assert kinds(joined) == ["HardSwish"]
    np.testing.assert_allclose(run(joined), run(given), atol=1e-6)
    assert len(given.graph.node) == 4


@pytest.mark.parametrize(
    ("changed", "to"),
    [
        (0, node("Add", ["x", "other"], "a")),
        (1, node("Clip", ["a", "zero", "other"], "c")),
        (2, node("Mul", ["a", "c"], "m")),
        (3, node("Div", ["six", "m"], "y")),
        (3, node("Div", ["m", "other"], "y")),
    ],
)
def test_what_is_none_stays(changed: int, to: NodeProto):
    nodes = four("multiplied", "Div", False)
    nodes[changed] = to
    assert hard_swishes(graph(nodes)) == 0
    assert list(join_hard_swishes(graph(nodes)).graph.node) == nodes


def test_what_is_read_elsewhere_stays():
    nodes = [*four("multiplied", "Div", False)[:3], node("Div", ["m", "six"], "d"), node("Add", ["d", "c"], "y")]
    assert hard_swishes(graph(nodes)) == 0


def test_preparing_joins_in_an_older_opset_too(tmp_path: Path):
    given = graph(four("multiplied", "Div", False), opset=13)
    ready = prepare(given)
    assert kinds(ready) == ["HardSwish"]
    np.testing.assert_allclose(run(ready), run(given), atol=1e-6)
