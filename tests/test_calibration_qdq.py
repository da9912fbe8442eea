import numpy as np
import pytest
from calibration_nets import FUSING, SCHEMES, array, by_op, calibrated, model, node, run, samples, saved, single_conv
from onnx import numpy_helper

from calibration.collect import collect
from calibration.observers.minmax import Minmax
from calibration.placement import place
from targets.base import Int8Scheme


def fake(x: np.ndarray, scale: np.ndarray, zero: int, low: int, high: int) -> np.ndarray:
    return (np.clip(np.rint(x / scale) + zero, low, high) - zero) * scale


def slow_conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """3×3, padded by 1, in float64 loops."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    out = np.empty((len(x), len(w), *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = padded[:, None, :, i : i + 3, j : j + 3]
            out[:, :, i, j] = (window * w[None].astype(np.float64)).sum(axis=(2, 3, 4)) + b
    return out


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("activation", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_arithmetic_is_that_of_a_fake_quantized_convolution(activation, symmetric, per_channel):
    made = single_conv(out=5)
    ranges = calibrated(made)
    scheme = Int8Scheme(activation, symmetric, per_channel, quantize_bias=True)
    placed = place(made, ranges, scheme).model
    x = samples(3, (3, 8, 8), seed=5)

    low, high = ranges.tensors["x"].low, ranges.tensors["x"].high
    bounds = (0, 255) if activation == "uint8" else (-128, 127)
    if symmetric:
        step, zero = max(-low, high) / 127, 128 if activation == "uint8" else 0
    else:
        step = (high - low) / 255
        zero = round(bounds[0] - low / step)
    w, b = array(made, "w"), array(made, "b")
    axes = (1, 2, 3) if per_channel else None
    w_step = np.abs(w).max(axis=axes, keepdims=True) / 127
    b_step = step * w_step.reshape(-1)
    expected = slow_conv(
        fake(x, np.float32(step), zero, *bounds), fake(w, w_step, 0, -127, 127), np.rint(b / b_step) * b_step
    )
    np.testing.assert_allclose(run(placed, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["Gemm", "GemmT", "MatMul", "ConvTranspose", "Grouped"])
def test_per_channel_weights_of_every_weighted_op(op):
    rng = np.random.default_rng(0)
    spread = 10.0 ** np.arange(-2, 2)
    shape, axis, kind, attributes = {
        "Gemm": ((6, 4), 1, "Gemm", {}),
        "GemmT": ((4, 6), 0, "Gemm", {"transB": 1}),
        "MatMul": ((6, 4), 1, "MatMul", {}),
        "ConvTranspose": ((6, 4, 2, 2), 1, "ConvTranspose", {}),
        "Grouped": ((4, 3, 2, 2), 0, "Conv", {"group": 2}),
    }[op]
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    w = (rng.normal(0, 1, shape) * spread.reshape(along)).astype(np.float32)
    made = model([node(kind, ["x", "w"], "y", **attributes)], {"w": w}, (1, 6, 5, 5)[: w.ndim])
    placed = place(made, calibrated(made), FUSING).model
    (stored,) = (n for n in by_op(placed, "DequantizeLinear") if "w" in n.output[0])
    integers, scale = (array(placed, name) for name in stored.input[:2])
    assert integers.dtype == np.int8
    assert {a.name: a.i for a in stored.attribute} == {"axis": axis}
    error = np.abs(integers * scale.reshape(along) - w)
    assert (error <= scale.reshape(along) * 0.5001).all()


@SCHEMES
def test_dead_channels_keep_their_bias(scheme):
    made = single_conv(out=4)
    w, b = array(made, "w").copy(), np.asarray([3.0, -2.0, 0.0, 1e-3], np.float32)
    w[0] = w[2] = 0
    w[3] *= 1e-12
    for tensor, value in zip(made.graph.initializer, (w, b), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    placed = place(made, calibrated(made), scheme).model
    y = run(placed, samples(2, (3, 8, 8)))
    assert np.isfinite(y).all()
    assert y[:, 0] == pytest.approx(3.0, abs=1e-3)
    assert (y[:, 2] == 0).all()
    assert y[:, 3] == pytest.approx(1e-3, abs=1e-5)


@SCHEMES
def test_tensors_that_are_always_zero(tmp_path, scheme):
    made = single_conv(activation="Relu")
    ranges = collect(saved(made, tmp_path), [{"x": np.zeros((2, 3, 8, 8), np.float32)}], Minmax())
    zeros = np.zeros((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(run(place(made, ranges, scheme).model, zeros), run(made, zeros), atol=0.02)


def test_a_reduced_range_shows_in_the_integers_and_costs_a_bit():
    made = single_conv(out=5)
    ranges = calibrated(made)
    x = samples(4, (3, 8, 8), seed=5)
    exact = run(made, x)
    errors = {}
    for reduced, limit in ((False, 127), (True, 64)):
        placed = place(made, ranges, Int8Scheme(reduced_range=reduced)).model
        integers = array(placed, "w_int8").astype(int)
        assert (np.abs(integers).reshape(5, -1).max(axis=1) == limit).all()
        errors[reduced] = np.abs(integers * array(placed, "w_scale").reshape(-1, 1, 1, 1) - array(made, "w")).max()
        assert np.abs(run(placed, x) - exact).max() < 0.05 * np.abs(exact).max()
    assert 1.5 < errors[True] / errors[False] < 2.6
