import numpy as np
import pytest
from calibration_nets import model, node, resnet, run, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.moments import channel_means, channel_stats
from calibration.network import Network


def scaled(opset: int = 17, batch: int | str = "N"):
    """y = x · gain + shift per channel, and its mean over positions, (N, 3), as z."""
    weights = {
        "gain": np.asarray([1, 1e-3, 0], np.float32).reshape(3, 1, 1),
        "shift": np.asarray([0, 100, 7], np.float32).reshape(3, 1, 1),
    }
    nodes = [
        node("Mul", ["x", "gain"], "m"),
        node("Add", ["m", "shift"], "y"),
        node("GlobalAveragePool", ["y"], "g"),
        node("Flatten", ["g"], "z"),
    ]
    return model(nodes, weights, (batch, 3, 4, 4), ("y", "z"), opset)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_moments_are_those_of_all_samples_at_once(opset, seed, sizes):
    made = scaled(opset)
    batches = [{"x": samples(n, (3, 4, 4), seed + i)} for i, n in enumerate(sizes)]
    found = channel_stats(made, batches, ["y", "z"])
    y = run(made, np.concatenate([b["x"] for b in batches])).astype(np.float64)
    for name, rows in (("y", y.transpose(1, 0, 2, 3).reshape(3, -1)), ("z", y.mean(axis=(2, 3)).T)):
        np.testing.assert_allclose(found[name].mean, rows.mean(axis=1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name].minimum, rows.min(axis=1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name].maximum, rows.max(axis=1), rtol=1e-5, atol=1e-6)
    # a deviation of 0.001 beside a mean of 100 is at the edge of float32
    np.testing.assert_allclose(found["y"].std, y.transpose(1, 0, 2, 3).reshape(3, -1).std(axis=1), atol=2e-5)
    means = channel_means(made, batches, ["y", "z"])
    np.testing.assert_array_equal(means["y"], found["y"].mean)


def test_a_static_batch_takes_the_data_in_pieces():
    made = resnet(batch=2)
    x = samples(6)
    whole = channel_means(resnet(batch="N"), [{"x": x}], ["stem", "y"])
    parts = channel_means(made, [{"x": x[:4]}, {"x": x[4:]}], ["stem", "y"])
    for name, mean in whole.items():
        np.testing.assert_allclose(parts[name], mean, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        CalibrationError, match="input 'x' has 3 samples, the model takes 2 at once: give a multiple of 2"
    ):
        channel_means(made, [{"x": x[:3]}], ["y"])


def test_only_what_a_tensor_needs_is_computed():
    made = resnet()
    made.graph.node[-1].op_type = "NoSuchOp"
    (found,) = Network(made, ["stem"])([{"x": samples(1)}])
    assert found["stem"].shape == (1, 16, 16, 16)
    with pytest.raises(CalibrationError, match="onnxruntime cannot load the model"):
        Network(made, ["y"])


def test_data_that_cannot_be_used():
    made = scaled()
    with pytest.raises(CalibrationError, match="no samples"):
        channel_stats(made, [], ["y"])
    with pytest.raises(CalibrationError, match="lacks input 'x'"):
        channel_stats(made, [{"image": samples(1, (3, 4, 4))}], ["y"])
    with pytest.raises(
        CalibrationError,
        match=r"input 'x' is float32 \(1, 2, 4, 4\) in the data; the model takes x: float \(\w+, 3, 4, 4\)",
    ):
        channel_stats(made, [{"x": samples(1, (2, 4, 4))}], ["y"])
    bad = samples(2, (3, 4, 4))
    bad[1, 0, 0, 0] = np.nan
    with pytest.raises(CalibrationError, match="tensor 'y' is NaN or infinite"):
        channel_stats(made, [{"x": bad}], ["y"])
    with pytest.raises(CalibrationError, match="'gain' have no channels"):
        channel_stats(made, [{"x": bad}], ["gain"])
