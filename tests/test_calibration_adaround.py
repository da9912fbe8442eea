from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.adaround import Annealing, Problem, first_logits, solve


def problem(seed: int, shape: tuple[int, int, int], rows: int, relu: bool = True, dtype: type = np.float64) -> Problem:
    """Random data with correlated columns, and weights several steps large."""
    rng = np.random.default_rng(seed)
    groups, channels, width = shape
    mixed = rng.normal(0, 1, (groups, width, width)) + 1
    data = np.abs(rng.normal(0, 1, (groups, rows, width)) @ mixed)
    weight = rng.normal(0, 3, shape)
    scale = rng.uniform(0.1, 0.3, (groups, channels, 1))
    bias = rng.normal(0, 1, groups * channels)
    low = 0.0 if relu else -np.inf
    exact = (data @ (weight * scale).swapaxes(1, 2)).transpose(1, 0, 2).reshape(rows, -1) + bias
    unit = float(np.sqrt(np.square(np.clip(exact, low, np.inf)).mean()))
    arrays = [array.astype(dtype) for array in (data, exact, weight, scale, bias)]
    return Problem(*arrays, low, np.inf, unit)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("beta", "strength"), [(20.0, 0.0), (2.0, 0.01), (7.0, 0.5)])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_the_gradient_is_that_of_differences(beta, strength, relu, seed):
    given_ = problem(seed, (2, 3, 4), 6, relu)
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, given_.weight.shape)
    _, gradient = given_.loss_and_gradient(logits, beta, strength)
    step = 1e-6
    for where in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[where] += step
        down[where] -= step
        higher, lower = (given_.loss_and_gradient(v, beta, strength)[0] for v in (up, down))
        assert gradient[where] == pytest.approx((higher - lower) / (2 * step), rel=1e-5, abs=1e-5)


def test_the_loss_is_that_of_plain_loops():
    given_ = problem(1, (2, 2, 3), 5)
    logits = np.random.default_rng(0).normal(0, 1, given_.weight.shape)
    h = np.clip(1.2 / (1 + np.exp(-logits)) - 0.1, 0, 1)
    total = 0.0
    for row in range(5):
        for channel in range(4):
            group, inner = divmod(channel, 2)
            output = given_.bias[channel]
            for k in range(3):
                integer = np.floor(given_.weight[group, inner, k]) + h[group, inner, k]
                output += given_.data[group, row, k] * integer * given_.scale[group, inner, 0]
            total += (max(output, 0) - max(given_.target[row, channel], 0)) ** 2 / 5 / given_.unit**2
    total += 0.01 * sum(1 - abs(2 * value - 1) ** 3 for value in h.reshape(-1))
    assert given_.loss_and_gradient(logits, 3.0, 0.01)[0] == pytest.approx(total, rel=1e-9)


def test_the_search_begins_at_the_float_weights():
    given_ = problem(2, (1, 3, 5), 40)
    loss, _ = given_.loss_and_gradient(first_logits(given_), 2.0, 0.0)
    assert loss == pytest.approx(0, abs=1e-9)


def best(given_: Problem) -> float:
    """Least error over all ways to round each channel's weights up or down."""
    floor = np.floor(given_.weight)
    least = np.full(given_.target.shape[1], np.inf)
    for ups in product((0, 1), repeat=given_.weight.shape[2]):
        least = np.minimum(least, given_.errors(floor + np.asarray(ups)))
    return float(least.sum())


@pytest.mark.parametrize("relu", [True, False])
def test_what_is_found_is_near_the_best_of_all_roundings(relu):
    errors = []
    for seed in range(6):
        given_ = problem(seed, (1, 6, 8), 64, relu, np.float32)
        found = solve(given_, Annealing(iterations=600, rows=64), 0)
        assert (np.abs(found - given_.weight) < 1).all()
        error, nearest = (float(given_.errors(integers).sum()) for integers in (found, given_.nearest()))
        errors.append((error, nearest, best(given_)))
        assert errors[-1][2] <= error * (1 + 1e-6)
    error, nearest, least = np.sum(errors, axis=0)
    assert nearest - error > 0.85 * (nearest - least)


def test_flips_are_those_of_a_slow_search():
    """One weight after the other, the error computed anew each time."""
    given_ = problem(4, (2, 3, 6), 40, relu=False)
    found = given_.nearest()
    for _ in range(3):
        for k in range(6):
            for group, channel in np.ndindex(2, 3):
                other = found.copy()
                floor = np.floor(given_.weight[group, channel, k])
                other[group, channel, k] = floor + 1 if found[group, channel, k] == floor else floor
                if given_.errors(other).sum() < given_.errors(found).sum():
                    found = other
    assert (found != given_.nearest()).any()
    np.testing.assert_array_equal(given_.flipped(given_.nearest()), found)


def test_no_channel_is_worse_than_nearest():
    given_ = problem(3, (2, 8, 12), 32, dtype=np.float32)
    hurried = solve(given_, Annealing(iterations=3, rows=4), 0)
    assert (given_.errors(hurried) <= given_.errors(given_.nearest())).all()


def test_integers_stay_on_the_grid():
    given_ = problem(0, (1, 4, 6), 32, dtype=np.float32)
    wide = Problem(
        given_.data,
        given_.target,
        given_.weight * 60,
        given_.scale / 60,
        given_.bias,
        given_.low,
        given_.high,
        given_.unit,
    )
    assert np.abs(wide.weight).max() > 127
    found = solve(wide, Annealing(iterations=50, rows=32), 0)
    assert found.dtype == np.int8
    assert np.abs(found.astype(int)).max() == 127


def test_a_seed_gives_the_same_integers():
    given_ = problem(5, (1, 6, 30), 64, dtype=np.float32)
    once, again = (solve(given_, Annealing(iterations=60, rows=8), 7) for _ in range(2))
    np.testing.assert_array_equal(once, again)
