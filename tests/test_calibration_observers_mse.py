import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_calibration_grids import slow_error
from test_calibration_observers_entropy import KINDS, seen

from calibration.histogram import Histogram, Side
from calibration.observers import make
from calibration.observers.mse import Mse
from calibration.qparams import activation_params
from targets.base import Int8Scheme


def error(values: np.ndarray, low: float, high: float, symmetric: bool = False) -> float:
    """Mean squared error of the values as QuantizeLinear and DequantizeLinear give them back."""
    params = activation_params(low, high, Int8Scheme(activation="int8", symmetric=symmetric))
    scale, zero = float(params.scale), float(params.zero_point)
    integers = np.clip(np.rint(values / scale) + zero, -128, 127)
    return float(np.square((integers - zero) * scale - values).mean())


def in_use(side: Side) -> list[Side]:
    """The bins that hold something, each for itself."""
    found = np.flatnonzero(side.counts)
    return [Side(side.edges[i : i + 2], side.counts[i : i + 1]) for i in found]


def slow_search(histogram: Histogram, symmetric: bool) -> tuple[float, int]:
    """Best step and number of steps below zero: half octaves over 16, then 1/32 octaves around the best."""
    positive, negative = (in_use(side) for side in histogram.sides())
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    top = max(-low, high) / 127 if symmetric else (high - low) / 255

    def best(octaves: list[float]) -> tuple[float, float, int]:
        priced = []
        for octave in octaves:
            step = top * 2.0**-octave
            for below in [127] if symmetric else range(256):
                above = 127 if symmetric else 255 - below
                cost = sum(slow_error(b, step, above) for b in positive)
                cost += sum(slow_error(b, step, below) for b in negative)
                priced.append((cost, octave, below))
        return min(priced, key=lambda row: row[0])

    _, octave, _ = best([i / 2 for i in range(32)])
    _, octave, below = best([max(octave + i / 32, 0) for i in range(-16, 17)])
    return top * 2.0**-octave, below


@pytest.mark.parametrize("kind", ["normal", "negative", "silu"])
def test_range_and_magnitude_equal_those_of_a_search_in_plain_loops(kind):
    values = KINDS[kind](8).astype(np.float32)
    histogram = seen(values)
    step, below = slow_search(histogram, symmetric=False)
    low, high = (float(np.clip(k * step, values.min(), values.max())) for k in (-below, 255 - below))
    assert Mse().range(histogram) == pytest.approx((low, high), rel=1e-5)
    step, _ = slow_search(histogram, symmetric=True)
    assert Mse().magnitude(histogram) == pytest.approx(min(step * 127, float(np.abs(values).max())), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_range_of_a_dense_grid_is_much_better(kind):
    values = KINDS[kind](20_000).astype(np.float32).astype(np.float64)
    found = error(values, *Mse().range(seen(values)))
    shares = np.geomspace(1e-3, 1, 40)
    ends = [(low, high) for low in min(values.min(), 0) * shares for high in max(values.max(), 0) * shares]
    assert found <= 1.02 * min(error(values, *pair) for pair in dict.fromkeys(ends))
    magnitude = Mse().magnitude(seen(values))
    both = [error(values, -m, m, symmetric=True) for m in np.abs(values).max() * np.geomspace(1e-3, 1, 300)]
    assert error(values, -magnitude, magnitude, symmetric=True) <= 1.02 * min(both)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(KINDS.keys() - {"cauchy"})), st.floats(-3, 3), st.floats(0.01, 100), st.floats(1, 2))
def test_no_other_observer_chooses_better(kind, shift, scale, power):
    values = KINDS[kind](5000)
    values += np.where(values == 0, 0, shift)  # what a ReLU cuts off stays at zero: a bin does not say where a peak is
    values = (np.sign(values) * np.abs(values) ** power * scale).astype(np.float32)
    errors = {}
    for name in ("mse", "minmax", "percentile", "entropy"):
        observer = make(name)
        memory = observer.start()
        memory.update(values)
        errors[name] = error(values.astype(np.float64), *observer.range(memory))
    # a few percent are luck: where the steps of a grid happen to fall on a peak narrower than they are
    assert errors["mse"] <= 1.1 * min(errors.values())


def test_one_sided_activations_use_every_step():
    values = np.maximum(np.random.default_rng(0).normal(0, 1, 500_000), 0)
    low, high = Mse().range(seen(values))
    assert low == 0
    assert Mse().magnitude(seen(values)) < high < values.max()  # coarser steps clip more


def test_the_side_with_the_tail_is_the_one_clipped():
    rng = np.random.default_rng(0)
    values = np.concatenate([-rng.uniform(0, 1, 500_000), rng.exponential(1, 500_000)])
    low, high = Mse().range(seen(values))
    assert low == pytest.approx(-1, rel=0.03)
    assert high < 0.9 * values.max()


def test_zeros_and_their_number_do_not_matter():
    values = np.random.default_rng(0).laplace(0, 1, 10_000)
    assert Mse().range(seen(np.append(values, np.zeros(10**6)))) == Mse().range(seen(values))
