"""What an activation function cannot tell apart takes no steps from int8."""

from pathlib import Path

import numpy as np
import pytest
from calibration_nets import WRITING, model, node, run, saved
from onnx import NodeProto

from calibration.collect import collect
from calibration.errors import CalibrationError
from calibration.graph import index
from calibration.observers.minmax import Minmax
from calibration.placement import place
from calibration.reach import reaches

BOUNDS = {
    "HardSwish": (node("HardSwish", ["c"], "y"), (-3, np.inf)),
    "HardSigmoid": (node("HardSigmoid", ["c"], "y", alpha=0.25, beta=0.5), (-2, 2)),
    "falling": (node("HardSigmoid", ["c"], "y", alpha=-0.25, beta=0.25), (-3, 1)),
    "level": (node("HardSigmoid", ["c"], "y", alpha=0.0), None),
    "Sigmoid": (node("Sigmoid", ["c"], "y"), None),  # nowhere quite constant
}
SPREAD = np.linspace(-9, 9, 16, dtype=np.float32).reshape(1, 1, 4, 4)


def net(*nodes: NodeProto):
    return model([node("Conv", ["x", "w"], "c"), *nodes], {"w": np.ones((1, 1, 1, 1), np.float32)}, (1, 1, 4, 4))


@pytest.mark.parametrize("name", BOUNDS)
def test_where_an_op_is_constant(name: str):
    reader, expected = BOUNDS[name]
    made = net(reader)
    assert reaches(index(made.graph)).get("c") == expected
    if expected is not None:
        clipped = np.clip(SPREAD, *expected).astype(np.float32)
        np.testing.assert_allclose(run(made, clipped), run(made, SPREAD), atol=1e-6)


def test_what_any_reader_tells_apart_counts():
    both = net(node("HardSwish", ["c"], "h"), node("HardSigmoid", ["c"], "s"), node("Add", ["h", "s"], "y"))
    assert reaches(index(both.graph))["c"] == (-3, np.inf)
    other = net(node("HardSwish", ["c"], "h"), node("Add", ["h", "c"], "y"))
    assert reaches(index(other.graph)) == {}


def test_what_the_caller_of_the_model_sees_counts():
    made = net(node("HardSwish", ["c"], "y"))
    made.graph.output.append(made.graph.output[0])
    made.graph.output[1].name = "c"
    assert reaches(index(made.graph)) == {}


def test_the_steps_are_spent_on_what_matters(tmp_path: Path):
    made = net(node("HardSwish", ["c"], "h"), node("Conv", ["h", "w"], "y"))
    ranges = collect(saved(made, tmp_path), [{"x": SPREAD}], Minmax())
    assert (ranges.tensors["x"].low, ranges.tensors["x"].high) == (-9, 9)
    assert (ranges.tensors["c"].low, ranges.tensors["c"].high) == (-3, 9)
    given = run(place(made, ranges, WRITING).model, SPREAD)
    step = 18 / 255  # of x; those of c and of what follows are 12 / 255 and less
    assert np.abs(given - run(made, SPREAD)).max() <= (step + 2 * 12 / 255) / 2 * 1.6  # 1.5 is the steepest slope
    assert not given[SPREAD <= -3.1].any()


def test_an_infinity_that_a_bound_would_hide_is_refused(tmp_path: Path):
    nodes = [node("Log", ["x"], "c"), node("HardSigmoid", ["c"], "h"), node("Conv", ["h", "w"], "y")]
    made = model(nodes, {"w": np.ones((1, 1, 1, 1), np.float32)}, (1, 1, 4, 4))
    data = np.abs(SPREAD)
    data[0, 0, 1, 1] = 0
    with pytest.raises(CalibrationError, match="'c'"):
        collect(saved(made, tmp_path), [{"x": data}], Minmax())
