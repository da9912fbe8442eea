import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruning_nets import LeNet, ResNet

from pipeline.errors import UserError
from pipeline.pruning import Plan, prune
from pipeline.pruning.plan import positions, spans


@given(st.sets(st.integers(0, 200), min_size=1))
def test_spans_read_back(kept: set[int]) -> None:
    assert positions(spans(sorted(kept))).tolist() == sorted(kept)


def test_spans_are_compact() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


@pytest.fixture(scope="module")
def plan() -> Plan:
    torch.manual_seed(0)
    return prune(LeNet(), torch.randn(1, 1, 28, 28), round_to=4).plan


def test_a_plan_reads_back_and_is_readable(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    text = json.loads((tmp_path / "plan.json").read_text())
    assert text["schema"] == "edgesmith.plan/2"
    assert text["settings"]["ratio"] == 0.5
    assert [(g["name"], g["width"]) for g in text["groups"]] == [
        ("conv1", "8 -> 4"),
        ("conv2", "16 -> 8"),
        ("fc1", "120 -> 60"),
        ("fc2", "84 -> 44"),
    ]
    assert text["groups"][1]["touches"] == ["conv2.bias[0]", "conv2.weight[0]", "fc1.weight[1]"]
    assert text["tensors"]["fc1.weight"]["shape"] == [120, 400]


def test_equal_plans_give_equal_bytes(plan: Plan, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plan.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_that_does_not_fit_is_refused(plan: Plan) -> None:
    with pytest.raises(UserError, match=r"does not fit ResNet: .*'conv1\.bias'"):
        plan.apply(ResNet())
    smaller = plan.apply(LeNet())
    with pytest.raises(UserError, match=r"conv1\.bias is \(4,\), the plan was made for \(8,\); .* in their order"):
        plan.apply(smaller)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "edgesmith.plan/9"}, "schema"),
        ({"extra": 1}, "extra"),
        ({"tensors": {"conv1.weight": {"shape": [8, 1], "keep": {"0": "0-8"}}}}, "lie in dimension 0"),
        ({"tensors": {"conv1.weight": {"shape": [8, 1], "keep": {"0": "3-1"}}}}, "must ascend"),
        ({"tensors": {"conv1.weight": {"shape": [8, 1], "keep": {"2": "0"}}}}, "dimension 2"),
        (
            {"tensors": {"conv1.weight": {"shape": [8, 1], "keep": {"0": "zero"}}}},
            "tensors.conv1.weight.keep",
        ),
    ],
)
def test_what_is_no_plan_is_one_line_with_file_and_key(
    plan: Plan, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        Plan.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_plan_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the plan .*none\.json: No such file"):
        Plan.load(tmp_path / "none.json")
