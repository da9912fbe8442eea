import json
from pathlib import Path

import pytest

from pipeline import plans
from pipeline.errors import UserError
from pipeline.lowrank import LowRankPlan
from pipeline.lowrank.plan import Factorized
from pipeline.pruning import Plan

PRUNED = Plan(settings={}, groups=(), tensors={}, zeroed=("a.weight",))
FACTORED = LowRankPlan(
    settings={}, layers=(Factorized("a", (8, 8, 3, 3), "tucker", (3, 4)), Factorized("b", (8, 8), "svd", (2,)))
)


def saved(plan: plans.ModelPlan, path: Path) -> Path:
    plan.save(path)
    return path


@pytest.mark.parametrize("plan", [PRUNED, FACTORED])
def test_a_file_is_read_by_its_schema(plan: plans.ModelPlan, tmp_path: Path) -> None:
    assert plans.load(saved(plan, tmp_path / "plan.json")) == plan


def test_schemas_are_those_of_the_kinds() -> None:
    assert set(plans.kinds()) == {"edgesmith.plan/2", "edgesmith.lowrank/1"}
    assert all(json.loads(json.dumps(kind.schema)) == name for name, kind in plans.kinds().items())


def test_what_a_kind_tells_of_itself() -> None:
    assert (PRUNED.held, FACTORED.held) == (("a.weight",), ())
    graph = Plan(form="graph", settings={}, groups=(), tensors={})
    assert (PRUNED.captures, graph.captures, FACTORED.captures) == (False, True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no plan: it is no JSON"),
        ("[]", "is no plan: its schema is None, known are edgesmith.plan/2, edgesmith.lowrank/1"),
        ('{"schema": "edgesmith.plan/9"}', "its schema is 'edgesmith.plan/9'"),
        ('{"schema": ["x"]}', "its schema is "),
        ('{"schema": "edgesmith.lowrank/1", "settings": {}}', "layers: Field required; write it anew"),
    ],
)
def test_what_is_no_plan_is_one_line_with_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        plans.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"ranks": [3]}, {"method": "qr"}, {"ranks": [0, 4]}, {"shape": [8]}, {"x": 1}])
def test_impossible_layers_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = saved(FACTORED, tmp_path / "plan.json")
    text = json.loads(path.read_text())
    text["layers"][0] |= change
    path.write_text(json.dumps(text))
    with pytest.raises(UserError, match=r"layers\.0"):
        plans.load(path)


def test_differences_of_ranks_and_of_kinds() -> None:
    other = LowRankPlan(settings={}, layers=(Factorized("a", (8, 8, 3, 3), "tucker", (3, 5)),))
    assert list(plans.between([FACTORED], [other])) == ["a: tucker 3, 4 | tucker 3, 5", "b: svd 2 | whole"]
    assert list(plans.between([PRUNED, FACTORED], [PRUNED, FACTORED])) == []
    assert list(plans.between([PRUNED, FACTORED], [FACTORED, FACTORED, PRUNED])) == [
        "plan 1: edgesmith.plan/2 | edgesmith.lowrank/1",
        "plan 3: only in the second",
    ]
