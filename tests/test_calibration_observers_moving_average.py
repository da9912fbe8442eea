import numpy as np
import pytest
from calibration_nets import samples, saved, single_conv

from calibration.collect import collect, observe
from calibration.errors import CalibrationError
from calibration.observations import merge
from calibration.observers.moving_average import MovingAverage


def batches(x, size):
    return [{"x": x[i : i + size]} for i in range(0, len(x), size)]


def test_it_is_the_average_of_a_loop():
    x = np.random.default_rng(0).standard_cauchy((9, 100)).astype(np.float32)
    observer = MovingAverage(0.8)
    seen = observer.start()
    low, high = float(x[0].min()), float(x[0].max())
    for i, batch in enumerate(x):
        seen.update(batch)
        if i:
            low, high = 0.8 * low + 0.2 * float(batch.min()), 0.8 * high + 0.2 * float(batch.max())
    assert observer.range(seen) == pytest.approx((low, high), rel=1e-5)
    assert (seen.minimum, seen.maximum) == (x.min(), x.max())


def test_an_outlier_is_forgotten():
    observer = MovingAverage()
    seen = observer.start()
    for i in range(60):
        seen.update(np.asarray([-1, 1000 if i == 5 else 1], np.float32))
    assert observer.range(seen) == pytest.approx((-1, 1), abs=3)
    assert seen.maximum == 1000


def test_batches_are_seen_in_their_order(tmp_path):
    path = saved(single_conv(batch=2), tmp_path)
    x = samples(64, (3, 8, 8)) * np.linspace(0.1, 5, 64, dtype=np.float32)[:, None, None, None]
    ranges = [collect(path, batches(x, 2), MovingAverage(), threads=n) for n in (1, 4, 4)]
    assert ranges[0].tensors["x"] == ranges[1].tensors["x"] == ranges[2].tensors["x"]
    turned = collect(path, batches(x[::-1], 2), MovingAverage())
    assert turned.tensors["x"].high < ranges[0].tensors["x"].high / 2


def test_shards_are_refused(tmp_path):
    path = saved(single_conv(), tmp_path)
    shards = [observe(path, batches(samples(2, (3, 8, 8), seed=i), 1), MovingAverage()) for i in range(2)]
    with pytest.raises(CalibrationError, match="moving_average goes by the order of the samples"):
        merge(shards)
    with pytest.raises(CalibrationError, match="depends on the order"):
        shards[0].seen["x"].merge(shards[1].seen["x"])


@pytest.mark.parametrize("bad", [-0.1, 1, 2])
def test_impossible_momenta(bad):
    with pytest.raises(CalibrationError, match="momentum is"):
        MovingAverage(bad)
