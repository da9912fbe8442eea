import numpy as np
import pytest
from calibration_nets import resnet, run, samples, saved, single_conv

from calibration.channels import channel_stats
from calibration.errors import CalibrationError


def batches(x, size):
    return [{"x": x[i : i + size]} for i in range(0, len(x), size)]


@pytest.mark.parametrize("size", [1, 3, 12])
def test_statistics_equal_numpys_over_all_samples(tmp_path, size):
    made = resnet(batch="N")
    x = samples(12) * 3 + 1
    found = channel_stats(saved(made, tmp_path), batches(x, size), ["a1", "x", "y"])
    assert list(found) == ["x", "a1", "y"]
    for name, stats in found.items():
        values = np.moveaxis(x if name == "x" else run(made, x, fetch=name), 1, 0)
        values = values.reshape(len(values), -1).astype(np.float64)
        assert stats.count == values.shape[1]
        np.testing.assert_allclose(stats.minimum, values.min(axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats.maximum, values.max(axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats.mean, values.mean(axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats.std, values.std(axis=1), rtol=1e-4, atol=1e-5)


def test_a_small_deviation_far_from_zero_is_not_lost(tmp_path):
    x = (1e6 + samples(40, (3, 8, 8))).astype(np.float32)
    stats = channel_stats(saved(single_conv(), tmp_path), batches(x, 1), ["x"])["x"]
    np.testing.assert_allclose(stats.std, x.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-6)


def test_other_axes_and_axes_that_are_not_there(tmp_path):
    path = saved(single_conv(), tmp_path)
    x = samples(4, (3, 8, 8))
    stats = channel_stats(path, batches(x, 1), ["x"], axis=-1)["x"]
    np.testing.assert_allclose(stats.maximum, x.max(axis=(0, 1, 2)))
    with pytest.raises(CalibrationError, match=r"tensor 'x' has shape \(1, 3, 8, 8\), which has no axis 4"):
        channel_stats(path, batches(x, 1), ["x"], axis=4)


def test_the_same_data_gives_the_same_bits(tmp_path):
    path = saved(resnet(), tmp_path)
    one, other = (channel_stats(path, batches(samples(9), 1), ["a1"], threads=4)["a1"] for _ in range(2))
    assert one.mean.tobytes() == other.mean.tobytes()
    assert one.std.tobytes() == other.std.tobytes()


def test_errors_name_tensor_and_sample(tmp_path):
    path = saved(single_conv(), tmp_path)
    x = samples(5, (3, 8, 8))
    x[3, 1, 1, 1] = np.nan
    with pytest.raises(CalibrationError, match="tensor 'x' is NaN or infinite at calibration sample 3 "):
        channel_stats(path, batches(x, 5), ["x"])
    with pytest.raises(CalibrationError, match="no float32 activation is called 'z'"):
        channel_stats(path, batches(x, 5), ["z"])
    with pytest.raises(CalibrationError, match="no samples"):
        channel_stats(path, [], ["x"])
