import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.grids import Grids, divergence, squared_error
from calibration.histogram import Side


def side(counts, first=1.0, ratio=1.1) -> Side:
    return Side(first * ratio ** np.arange(len(counts) + 1.0), np.asarray(counts, np.int64))


def pieces(near: float, far: float, step: float, most: int) -> list[tuple[float, float, int]]:
    """A bin cut where its values begin to round to another multiple: from, to, multiple."""
    crossed = range(max(math.floor(near / step) - 1, 0), min(math.ceil(far / step) + 1, most))
    cuts = [near, *(b for k in crossed if near < (b := (k + 0.5) * step) < far), far]
    return [(a, b, min(round((a + b) / 2 / step), most)) for a, b in pairwise(cuts)]


def slow_error(values: Side, step: float, most: int) -> float:
    total = 0.0
    for near, far, count in zip(values.edges, values.edges[1:], values.counts, strict=False):
        for a, b, k in pieces(float(near), float(far), step, most):
            integral = ((b - k * step) ** 3 - (a - k * step) ** 3) / 3
            total += int(count) * integral / (float(far) - float(near))
    return total


counts = st.lists(st.integers(0, 50), min_size=30, max_size=30).filter(any)


@settings(deadline=None, max_examples=40)
@given(counts, st.lists(st.floats(0.02, 30), min_size=1, max_size=4), st.integers(0, 12))
def test_squared_error_equals_an_integral_bin_by_bin(counts, steps, most):
    values = side(counts)
    found = squared_error(values, np.asarray(steps), most)
    assert found.shape == (len(steps), most + 1)
    for i, step in enumerate(steps):
        for k in range(most + 1):
            assert found[i, k] == pytest.approx(slow_error(values, step, k), rel=1e-5, abs=1e-9)


def test_squared_error_is_that_of_the_values_themselves():
    values = np.random.default_rng(0).uniform(1, 2, 200_000)
    counted = Side(np.linspace(1, 2, 41), np.histogram(values, np.linspace(1, 2, 41))[0])
    step, most = 0.07, 20
    rounded = np.minimum(np.rint(values / step), most) * step
    exact = np.square(values - rounded).sum()
    assert squared_error(counted, np.asarray([step]), most)[0, -1] == pytest.approx(exact, rel=2e-3)


def slow_divergence(positive: Side, negative: Side, threshold: float, step: float, ends: tuple[int, int]) -> float:
    """Bin by bin, as Migacz tells it: outliers into the outermost bins of P, Q from the bins without them."""
    p: list[float] = []
    bare: list[int] = []
    width: list[float] = []
    cell: list[int] = []
    for values, sign, most in ((positive, 1, ends[1]), (negative, -1, ends[0])):
        used = [
            (float(near), float(far), int(n))
            for near, far, n in zip(values.edges, values.edges[1:], values.counts, strict=False)
            if n
        ]
        inside = [row for row in used if row[1] <= threshold]
        clipped = sum(n for *_, n in used[len(inside) :])
        if clipped and not inside:
            return math.inf
        for i, (near, far, n) in enumerate(inside):
            bare.append(n)
            p.append(n + (clipped if i == len(inside) - 1 else 0))
            width.append(far - near)
            cell.append(sign * min(math.floor((near + far) / 2 / step + 0.5), most))
    if not p:
        return math.inf
    held = dict.fromkeys(cell, 0)
    wide = dict.fromkeys(cell, 0.0)
    for k, n, w in zip(cell, bare, width, strict=True):
        held[k] += n
        wide[k] += w
    n_p, n_q = sum(p), sum(bare)
    q = [held[k] * w / wide[k] / n_q for k, w in zip(cell, width, strict=True)]
    return sum(a / n_p * math.log(a / n_p / b) for a, b in zip(p, q, strict=True))


@settings(deadline=None, max_examples=60)
@given(counts, st.lists(st.integers(0, 50), min_size=30, max_size=30), st.integers(1, 30), st.integers(0, 9))
def test_divergence_equals_a_sum_bin_by_bin(positive, negative, edge, below):
    one, other = side(positive), side(negative)
    thresholds = one.edges[[edge, 30]]
    above = 9 - below
    step = 2 * thresholds / 9
    found = divergence(one, other, Grids(thresholds, step, np.full(2, below), np.full(2, above)))
    for value, threshold, size in zip(found, thresholds, step, strict=True):
        slow = slow_divergence(one, other, float(threshold), float(size), (below, above))
        assert value == pytest.approx(slow, rel=1e-5, abs=1e-9)


def test_divergence_is_never_negative_and_zero_where_nothing_is_lost():
    values = side([3, 1, 4, 1, 5, 9, 2, 6], ratio=1.5)
    fine = Grids(values.edges[-1:], np.asarray([0.01]), np.asarray([3000]), np.asarray([3000]))
    assert divergence(values, values, fine) == pytest.approx(0, abs=1e-12)
    coarse = Grids(values.edges[-3:-1], values.edges[-3:-1] / 3, np.full(2, 3), np.full(2, 3))
    assert (divergence(values, values, coarse) > 0).all()
