from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning.allocate import allowed, closest, global_wants, local_wants, rounded
from pipeline.pruning.criteria.base import Ranking
from pipeline.pruning.groups import Group

NUMBERS = count()


def group(units: int, per_unit: int = 1) -> Group:
    return Group(f"g{next(NUMBERS)}", units, per_unit, ())


def test_the_groups_of_a_tie_keep_one_share_or_all() -> None:
    a, b, c = group(8), group(4, per_unit=2), group(8)
    tie = frozenset({a.name, b.name})
    assert rounded([a, b, c], [2.0, 4.0, 2.0], (1, 1), [tie]) == (6, 3, 2)
    assert rounded([a, c], [2.0, 2.0], (1, 1), [tie]) == (8, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1), st.data())
def test_best_keeps_exactly_k_and_the_highest(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    kept = Ranking(np.array(values)).keep(k)
    assert len(kept) == k
    assert list(kept) == sorted(set(kept))
    assert sorted(values[i] for i in kept) == sorted(values)[-k:]


def test_ties_keep_exactly_k_and_the_first() -> None:
    assert Ranking(np.array([1.0, 2.0, 1.0, 1.0, 2.0])).keep(3) == (0, 1, 4)


@pytest.mark.parametrize(
    ("units", "per_unit", "round_to", "least", "options"),
    [
        (64, 1, 16, 1, [16, 32, 48, 64]),
        (20, 1, 8, 1, [8, 16, 20]),
        (6, 1, 8, 1, [6]),
        (32, 4, 8, 1, [*range(2, 32, 2), 32]),
        (64, 1, 16, 33, [48, 64]),
        (16, 1, 8, 100, [16]),
    ],
)
def test_allowed_widths(units: int, per_unit: int, round_to: int, least: int, options: list[int]) -> None:
    assert allowed(group(units, per_unit), round_to, least).tolist() == options


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 96), min_size=1, max_size=12),
    st.floats(0, 0.99),
    st.integers(1, 16),
    st.integers(1, 16),
)
def test_rounding_is_to_the_nearest_and_empties_nothing(
    widths: list[int], ratio: float, round_to: int, min_width: int
) -> None:
    groups = [group(w) for w in widths]
    wanted = local_wants(groups, [], ratio)
    for g, want, kept in zip(groups, wanted, rounded(groups, wanted, (round_to, min_width)), strict=True):
        options = allowed(g, round_to, min_width)
        assert kept in options
        assert abs(kept - want) == pytest.approx(np.abs(options - want).min())
        assert min(min_width, g.units) <= kept <= g.units


def test_ties_do_not_add_up() -> None:
    groups = [group(24) for _ in range(10)]
    kept = rounded(groups, local_wants(groups, [], 0.5), (8, 1))
    assert sorted(set(kept)) == [8, 16]
    assert sum(kept) == 120


def test_global_ranking_is_relative_to_each_group() -> None:
    groups = [group(4), group(4)]
    loud, quiet = np.array([100.0, 100.0, 100.0, 20.0]), np.array([0.1, 0.1, 0.01, 0.01])
    assert global_wants(groups, [Ranking(loud), Ranking(quiet)], 3 / 8) == [3.0, 2.0]
    assert global_wants(groups, [Ranking(np.zeros(4)), Ranking(quiet)], 0.0) == [4.0, 4.0]


def test_global_ranking_counts_channels_not_units() -> None:
    groups = [group(4, per_unit=4), group(4)]
    assert global_wants(groups, [Ranking(np.array([s, 1, 1, 1])) for s in (0.1, 0.2)], 5 / 20) == [3.0, 3.0]


def test_a_step_that_jumps_the_goal_is_taken_group_by_group() -> None:
    groups = [group(16) for _ in range(10)]

    def removed(keep: tuple[int, ...]) -> float:
        return 1 - sum(keep) / 160

    kept = closest(lambda r: rounded(groups, local_wants(groups, [], r), (16, 1)), removed, 0.3)
    assert kept == (16,) * 10
    kept = closest(lambda r: rounded(groups, local_wants(groups, [], r), (8, 1)), removed, 0.3)
    assert removed(kept) == pytest.approx(0.3)
