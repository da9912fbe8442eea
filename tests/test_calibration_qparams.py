import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calibration.qparams import (
    LIMIT,
    REDUCED,
    activation_params,
    closest_weight_scale,
    quantize_bias,
    quantize_weight,
    scale_for_bias,
    weight_scale,
)
from targets.base import Int8Scheme

values = st.floats(-1e6, 1e6, width=32)


def fake(x: np.ndarray, scale: float, zero: int, dtype: str) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear as the ONNX specification words them."""
    info = np.iinfo(dtype)
    return (np.clip(np.rint(x / scale) + zero, info.min, info.max) - zero) * scale


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@settings(deadline=None)
@given(a=values, b=values)
def test_zero_is_exact_and_the_range_is_covered_to_half_a_step(dtype, symmetric, a, b):
    low, high = min(a, b), max(a, b)
    assume(max(abs(low), abs(high)) > 1e-6)
    params = activation_params(low, high, Int8Scheme(activation=dtype, symmetric=symmetric))
    scale, zero = float(params.scale), int(params.zero_point)
    assert params.zero_point.dtype == np.dtype(dtype)
    assert fake(np.zeros(1), scale, zero, dtype)[0] == 0
    inside = np.linspace(min(low, 0), max(high, 0), 101)
    # the zero point is rounded, which moves the whole grid by up to half a step, so the ends may lose one
    error = np.abs(fake(inside, scale, zero, dtype) - inside)
    assert error.max() <= scale * (0.5 if symmetric else 1.0) * (1 + 1e-5)
    assert np.median(error) <= scale * 0.5 * (1 + 1e-5)


def test_symmetric_zero_points_are_fixed():
    assert activation_params(-1, 3, Int8Scheme(activation="int8", symmetric=True)).zero_point == 0
    assert activation_params(0, 3, Int8Scheme(activation="uint8", symmetric=True)).zero_point == 128
    assert activation_params(-1, 3, Int8Scheme(activation="int8", symmetric=True)).scale == np.float32(3 / 127)


def test_one_sided_ranges_use_every_step():
    params = activation_params(0.5, 2.0, Int8Scheme(activation="uint8", symmetric=False))
    assert (float(params.scale), int(params.zero_point)) == (np.float32(2 / 255), 0)
    params = activation_params(-2.0, -0.5, Int8Scheme(activation="int8", symmetric=False))
    assert (float(params.scale), int(params.zero_point)) == (np.float32(2 / 255), 127)


@pytest.mark.parametrize("span", [0.0, 1e-40, 1e-25])
def test_a_range_of_nothing_gets_scale_one(span):
    for dtype in ("uint8", "int8"):
        params = activation_params(0.0, span, Int8Scheme(activation=dtype, symmetric=False))
        assert params.scale == 1
        assert params.zero_point == np.iinfo(dtype).min


@pytest.mark.parametrize("axis", [0, 1, None])
@settings(deadline=None)
@given(seed=st.integers(0, 1000), spread=st.floats(0, 6))
def test_weights_come_back_within_half_a_step(axis, seed, spread):
    rng = np.random.default_rng(seed)
    weight = (rng.normal(0, 1, (5, 4, 3, 3)) * 10.0 ** rng.uniform(-spread, spread, (5, 4, 1, 1))).astype(np.float32)
    scale = weight_scale(weight, axis)
    assert scale.shape == (() if axis is None else (weight.shape[axis],))
    integers = quantize_weight(weight, scale, axis)
    steps = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(4)])
    assert (np.abs(integers * steps.astype(np.float64) - weight) <= steps * 0.5 * (1 + 1e-5)).all()
    assert np.abs(integers.astype(int)).max() == 127


def test_dead_channels_share_the_greatest_scale():
    weight = np.zeros((3, 2), np.float32)
    weight[0] = [1.0, -2.54]
    weight[2] = [0.127, 0]
    assert weight_scale(weight, 0) == pytest.approx([0.02, 0.02, 0.001])
    assert (quantize_weight(weight, weight_scale(weight, 0), 0)[1] == 0).all()
    assert (weight_scale(np.zeros((3, 2), np.float32), 0) == 1).all()
    assert weight_scale(np.zeros((3, 2), np.float32), None) == 1


def test_a_bias_that_would_leave_int32_widens_its_weights_scale():
    scale = np.asarray([1e-3, 1e-9], np.float32)
    bias = np.asarray([1.0, 1000.0], np.float32)
    widened = scale_for_bias(scale, bias, data_scale=0.01)
    assert widened[0] == scale[0]
    assert widened[1] > scale[1]
    steps = widened.astype(np.float64) * 0.01
    integers = quantize_bias(bias, steps.astype(np.float32))
    assert integers.dtype == np.int32
    assert integers * steps == pytest.approx(bias, rel=1e-4)
    assert scale_for_bias(np.asarray(1e-9, np.float32), bias, 0.01).shape == ()


def pair_in_int16(data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """VPMADDUBSW: products of u8 and s8 added in pairs, saturated to int16."""
    exact = (data.astype(np.int64) * weights).reshape(-1, 2).sum(axis=1)
    return np.clip(exact, -(2**15), 2**15 - 1)


def test_reduced_weights_are_the_widest_that_never_saturate_a_pair():
    data = np.full(2, 255, np.uint8)
    for limit, saturates in ((REDUCED, False), (REDUCED + 1, True), (LIMIT, True)):
        for sign in (1, -1):
            weights = np.full(2, sign * limit, np.int8)
            exact = int((data.astype(np.int64) * weights).sum())
            assert (int(pair_in_int16(data, weights)[0]) != exact) == saturates


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), tail=st.floats(1, 4))
def test_pairs_of_any_data_and_reduced_weights_are_exact(seed, tail):
    rng = np.random.default_rng(seed)
    weight = (np.sign(w := rng.normal(0, 1, (4, 64))) * np.abs(w) ** tail).astype(np.float32)
    for scale in (weight_scale(weight, 0, REDUCED), closest_weight_scale(weight, 0, REDUCED)):
        integers = quantize_weight(weight, scale, 0, REDUCED)
        assert np.abs(integers.astype(int)).max() == REDUCED
        data = rng.integers(0, 256, weight.shape).astype(np.uint8)
        exact = (data.astype(np.int64) * integers).reshape(-1, 2).sum(axis=1)
        np.testing.assert_array_equal(pair_in_int16(data.reshape(-1), integers.reshape(-1)), exact)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@settings(deadline=None)
@given(low=st.floats(-100, -0.01), high=st.floats(0.01, 100), most=st.floats(1.05, 2))
def test_a_zero_point_is_centred_where_that_costs_little(dtype, low, high, most):
    plain, params = (activation_params(low, high, Int8Scheme(activation=dtype, centred=c)) for c in (1.0, most))
    longer = max(-low / 128, high / 127) * 255 / (high - low)
    assume(abs(longer - most) > 1e-6)
    if longer > most:
        assert (params.scale, params.zero_point) == (plain.scale, plain.zero_point)
    else:
        assert params.zero_point == (128 if dtype == "uint8" else 0)
        ends = fake(np.asarray([low, high]), float(params.scale), int(params.zero_point), dtype)
        np.testing.assert_allclose(ends, [low, high], atol=float(params.scale) * 0.501)


def test_one_sided_ranges_are_never_centred():
    for low, high in ((0.0, 2.0), (-2.0, 0.0)):
        assert activation_params(low, high, Int8Scheme(centred=10.0)).zero_point in (0, 255)
