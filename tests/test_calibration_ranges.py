import json

import onnx
import pytest
from calibration_nets import single_conv
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.graph import digest
from calibration.ranges import Ranges, TensorRange

GOOD = Ranges(
    {"x": TensorRange(-1.0, 1.5, -0.75, 1.25), 'odd "name"\n': TensorRange(0.0, 0.0, 0.0, 0.0)},
    samples=7,
    observer="percentile",
    options={"percentile": 99.9},
    model="ab" * 32,
)


@pytest.fixture
def path(tmp_path):
    GOOD.save(tmp_path / "ranges.json")
    return tmp_path / "ranges.json"


def test_round_trip(path):
    assert Ranges.load(path) == GOOD
    assert list(Ranges.load(path).tensors) == list(GOOD.tensors)


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_numbers_come_back_bit_for_bit(tmp_path_factory, numbers):
    minimum, low, high, maximum = sorted(numbers)
    ranges = Ranges({"t": TensorRange(minimum, maximum, low, high)}, 1, "minmax", {}, "k")
    path = tmp_path_factory.mktemp("r") / "ranges.json"
    ranges.save(path)
    assert Ranges.load(path) == ranges


def test_the_file_is_readable_one_line_per_tensor(path):
    lines = path.read_text().splitlines()
    assert json.loads(path.read_text())["schema"] == "edgesmith.ranges/1"
    assert any('"x": {"minimum": -1.0, "maximum": 1.5, "low": -0.75, "high": 1.25}' in line for line in lines)


def test_no_tensors_is_valid_json_too(tmp_path):
    empty = Ranges({}, 1, "minmax", {}, "k")
    empty.save(tmp_path / "r.json")
    assert Ranges.load(tmp_path / "r.json") == empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "edgesmith.ranges/2"}, "schema is 'edgesmith.ranges/2', not 'edgesmith.ranges/1'"),
        ({"samples": "7"}, "samples is not a JSON int"),
        ({"tensors": []}, "tensors is not a JSON dict"),
        ({"tensors": {"x": {"minimum": 0}}}, "tensors.x does not have exactly minimum"),
        (
            {"tensors": {"x": {"minimum": 0, "maximum": 1, "low": 0, "high": "1"}}},
            "tensors.x.high is '1', not a finite",
        ),
        ({"tensors": {"x": {"minimum": 0, "maximum": 1, "low": 0, "high": float("nan")}}}, "x.high is nan"),
        ({"tensors": {"x": {"minimum": 0, "maximum": 1, "low": 0, "high": 2}}}, "tensors.x is not ordered"),
        (
            {"tensors": {"x": {"minimum": 0, "maximum": 1, "low": 0, "high": 1, "magnitude": 2}}},
            "tensors.x.magnitude is not between 0 and the greatest magnitude",
        ),
        (
            {"tensors": {"x": {"minimum": 0, "maximum": 1, "low": 0, "high": 1, "magnitude": None}}},
            "tensors.x.magnitude is None, not a finite number",
        ),
    ],
)
def test_wrong_files_say_where(path, change, message):
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CalibrationError, match=message) as caught:
        Ranges.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_files_that_are_something_else(path, content):
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="calibrate again"):
        Ranges.load(path)
    with pytest.raises(CalibrationError, match="no such file"):
        Ranges.load(path.parent / "none.json")


def test_a_magnitude_is_for_fixed_zero_points(tmp_path):
    found = TensorRange(-1.0, 4.0, -0.5, 3.0, 2.5)
    Ranges({"t": found}, 1, "mse", {}, "k").save(tmp_path / "r.json")
    assert Ranges.load(tmp_path / "r.json").tensors["t"] == found
    assert (found.bounds(symmetric=False), found.bounds(symmetric=True)) == ((-0.5, 3.0), (-2.5, 2.5))
    without = TensorRange(-1.0, 4.0, -0.5, 3.0)
    assert without.bounds(symmetric=False) == without.bounds(symmetric=True) == (-0.5, 3.0)


def test_missing_tensors_are_named():
    with pytest.raises(CalibrationError, match=r"lack 'a', 'b': calibrate"):
        GOOD.of(["a", "x", "b"])
    with pytest.raises(CalibrationError, match="and 15 more"):
        GOOD.of([f"t{i}" for i in range(20)])


def test_the_model_is_recognised_by_what_it_computes():
    model, other = single_conv(seed=0), single_conv(seed=1)
    ranges = Ranges({}, 1, "minmax", {}, digest(model))
    onnx.helper.set_model_props(model, {"labels": "a,b"})
    model.graph.node[0].name = "renamed"
    model.graph.doc_string = "words"
    ranges.require(model)
    with pytest.raises(CalibrationError, match="collected on another model"):
        ranges.require(other)
