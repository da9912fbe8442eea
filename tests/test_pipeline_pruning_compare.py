from hypothesis import given
from hypothesis import strategies as st

from pipeline.plans import between
from pipeline.pruning import Plan
from pipeline.pruning.compare import differences
from pipeline.pruning.plan import GroupCut, spans

groups = st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(0, 15), min_size=1, max_size=15))


def cut(name: str, units: set[int]) -> GroupCut:
    return GroupCut(
        name=name,
        kind="filter",
        before=16,
        after=len(units),
        width=f"16 -> {len(units)}",
        kept=spans(sorted(units)),
        units=16,
        touches=(),
    )


def plan(kept: dict[str, set[int]]) -> Plan:
    return Plan(settings={}, groups=tuple(cut(name, units) for name, units in kept.items()), tensors={})


def test_a_line_per_group_that_differs() -> None:
    a = plan({"a": {1, 2}, "b": {1, 2, 3}, "c": {4}, "e": {5}})
    b = plan({"a": {1, 2}, "b": {1, 2, 9}, "d": {4}, "e": {5, 6}})
    assert list(differences(a, b)) == [
        "b: 16 -> 3 | 16 -> 3 (2 of 3 units kept by both)",
        "c: 16 -> 1 | whole",
        "e: 16 -> 1 | 16 -> 2",
        "d: whole | 16 -> 1",
    ]


def test_a_line_per_module_that_only_one_removes() -> None:
    a = Plan(settings={}, groups=(), tensors={}, removed=("x.1", "x.2"))
    b = Plan(settings={}, groups=(), tensors={}, removed=("x.2", "x.3"))
    assert list(differences(a, b)) == ["x.1: removed | stays", "x.3: stays | removed"]


@given(groups, groups)
def test_no_line_if_and_only_if_the_plans_cut_alike(a: dict[str, set[int]], b: dict[str, set[int]]) -> None:
    found = list(differences(plan(a), plan(b)))
    assert (found == []) == (a == b)
    assert {line.partition(":")[0] for line in found} == {n for n in {*a, *b} if a.get(n) != b.get(n)}


def test_successions_are_compared_step_by_step() -> None:
    one, two = plan({"a": {1}}), plan({"a": {2}})
    assert list(between([one], [two])) == ["a: 16 -> 1 | 16 -> 1 (0 of 1 units kept by both)"]
    assert list(between([one, one], [one, two, two])) == [
        "plan 2: a: 16 -> 1 | 16 -> 1 (0 of 1 units kept by both)",
        "plan 3: only in the second",
    ]
