from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.stepwise import cumulative, increments

CURVES = ["linear", "geometric", "cubic"]


@given(st.sampled_from(CURVES), st.integers(1, 12), st.floats(0, 0.99))
def test_steps_end_at_the_ratio_and_never_give_back(curve: str, steps: int, ratio: float) -> None:
    gone = cumulative(curve, steps, ratio)  # type: ignore[arg-type]
    assert len(gone) == steps
    assert gone[-1] == pytest.approx(ratio)
    assert all(a <= b + 1e-12 for a, b in pairwise((0.0, *gone)))


@given(st.sampled_from(CURVES), st.integers(1, 12), st.floats(0, 0.99))
def test_what_each_step_takes_of_the_rest_adds_up(curve: str, steps: int, ratio: float) -> None:
    left = 1.0
    for share in increments(curve, steps, ratio):  # type: ignore[arg-type]
        assert -1e-9 <= share < 1
        left *= 1 - share
    assert 1 - left == pytest.approx(ratio)


def test_curves_differ_in_where_they_are_steep() -> None:
    assert cumulative("linear", 4, 0.8) == pytest.approx((0.2, 0.4, 0.6, 0.8))
    assert increments("geometric", 3, 0.784) == pytest.approx((0.4, 0.4, 0.4))
    assert cumulative("cubic", 2, 0.8) == pytest.approx((0.7, 0.8))
