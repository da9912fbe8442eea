import json
import re

import numpy as np
import pytest
from calibration_nets import (
    FUSING,
    WRITING,
    array,
    by_op,
    calibrated,
    model,
    node,
    resnet,
    run,
    samples,
    single_conv,
    sqnr_db,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from calibration.errors import CalibrationError
from calibration.graph import digest
from calibration.layers import layers
from calibration.placement import place
from calibration.qparams import (
    COARSE,
    FINE,
    REDUCED,
    closest_weight_scale,
    dequantize_weight,
    quantize_weight,
    weight_scale,
)
from calibration.weights import SCHEMA, Weight, Weights, chosen
from targets.base import Int8Scheme


def slow_error(row: np.ndarray, scale: np.float32, limit: int) -> float:
    total = 0.0
    for value in row:
        q = min(max(round(float(np.float32(value) / scale)), -limit), limit)
        total += float(np.float32(np.float32(q) * scale) - np.float32(value)) ** 2
    return total


def slow_closest(row: np.ndarray, limit: int) -> float:
    """One channel, one candidate after the other."""
    widest = np.float32(np.abs(row).max() / limit)
    best, least = np.float32(1), slow_error(row, widest, limit)
    for offsets in (COARSE, FINE):
        centre = best
        for offset in offsets:
            factor = min(np.float32(centre + np.float32(offset)), np.float32(1))
            error = slow_error(row, np.float32(widest * factor), limit)
            if error < least:
                best, least = factor, error
    return float(widest * best)


@pytest.mark.parametrize("limit", [127, REDUCED])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), tail=st.sampled_from([1.0, 1.5, 3.0]))
def test_the_closest_scale_is_that_of_a_slow_search(limit, seed, tail):
    rng = np.random.default_rng(seed)
    weight = (np.sign(w := rng.normal(0, 1, (3, 4, 3))) * np.abs(w) ** tail).astype(np.float32)
    expected = [slow_closest(row.reshape(-1), limit) for row in weight]
    np.testing.assert_allclose(closest_weight_scale(weight, 0, limit), expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_the_closest_scale_is_never_worse_and_better_on_heavy_tails(axis):
    rng = np.random.default_rng(0)
    weight = rng.laplace(0, 1, (64, 64, 3, 3)).astype(np.float32)

    def error(scale: np.ndarray) -> np.ndarray:
        real = dequantize_weight(quantize_weight(weight, scale, axis), scale, axis)
        return np.square(real.astype(np.float64) - weight).sum(axis=tuple(i for i in range(4) if i != axis))

    assert (error(closest_weight_scale(weight, axis)) <= error(weight_scale(weight, axis))).all()
    assert error(closest_weight_scale(weight, axis)).sum() < 0.99 * error(weight_scale(weight, axis)).sum()


def test_dead_channels_and_channels_on_the_grid_keep_their_scale():
    weight = np.zeros((3, 2), np.float32)
    weight[0] = [1.0, -2.54]
    weight[2] = [127, -3]
    scale = closest_weight_scale(weight, 0)
    assert scale[1] == weight_scale(weight, 0)[1]
    assert scale[2] == 1


def conv_weights(made) -> dict[str, np.ndarray]:
    return {n.input[1]: array(made, n.input[1]) for n in by_op(made, "Conv")}


@pytest.mark.parametrize("scheme", [FUSING, WRITING])
def test_scales_integers_and_biases_are_taken_as_they_are(scheme):
    made = single_conv(out=3, bias=False)
    w = array(made, "w")
    scale = np.asarray([0.01, 0.02, 0.03], np.float32)
    integers = np.random.default_rng(1).integers(-127, 128, w.shape).astype(np.int8)
    bias = np.asarray([1.0, -2.0, 3.0], np.float32)
    given_ = Weights({"w": Weight(scale, 0, integers)}, {"y": bias}, digest(made))
    placed = place(made, calibrated(made), scheme, weights=given_)
    assert placed.nearest == {}
    stored = next(n for n in by_op(placed.model, "DequantizeLinear") if n.input[0] == "w_int8")
    np.testing.assert_array_equal(array(placed.model, stored.input[0]), integers)
    np.testing.assert_array_equal(array(placed.model, stored.input[1]), scale)
    x = samples(4, (3, 8, 8))
    w = dequantize_weight(integers, scale, 0)
    alike = model([node("Conv", ["x", "w", "b"], "y", pads=[1] * 4)], {"w": w, "b": bias}, (1, 3, 8, 8))
    assert sqnr_db(run(alike, x), run(placed.model, x)) > 30


def test_nearest_integers_come_from_the_scale_that_was_chosen():
    made = resnet()
    weights = chosen(made, "mse")
    placed = place(made, calibrated(made), FUSING, weights=weights)
    assert placed.nearest == {}
    for name, w in conv_weights(made).items():
        np.testing.assert_array_equal(array(placed.model, f"{name}_int8"), weights.tensors[name].rounded(w))
        np.testing.assert_array_equal(array(placed.model, f"{name}_scale"), closest_weight_scale(w, 0))


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Int8Scheme(per_channel=False), "the scheme has one scale for all"),
        (Int8Scheme(reduced_range=True), "the scheme keeps weights to -64…64"),
    ],
)
def test_another_grid_is_rounded_anew_and_said(scheme, reason):
    made = single_conv(out=3)
    wrong = Weights({"w": Weight(np.ones(3, np.float32), 0)}, {"y": np.full(3, 99, np.float32)}, digest(made))
    ranges = calibrated(made)
    placed = place(made, ranges, scheme, weights=wrong)
    assert placed.nearest == {"Conv_y": reason}
    assert placed.model == place(made, ranges, scheme).model
    assert place(made, ranges, scheme).nearest == {}


def test_a_bias_that_would_leave_int32_is_said():
    made = single_conv(out=3)
    tiny = Weights({"w": Weight(np.full(3, 1e-12, np.float32), 0)}, {}, digest(made))
    placed = place(made, calibrated(made), WRITING, weights=tiny)
    assert placed.nearest == {"Conv_y": "its bias, in steps of its scale, would leave int32"}
    assert place(made, calibrated(made), FUSING, weights=tiny).nearest == {}


def test_ops_that_share_a_weight_and_a_bias_have_corrections_of_their_own():
    weights = {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "b": np.zeros(3, np.float32)}
    nodes = [node("Conv", ["x", "w", "b"], "mid"), node("Conv", ["mid", "w", "b"], "y")]
    made = model(nodes, weights, (1, 3, 2, 2))
    given_ = chosen(made, "max")
    given_ = Weights(given_.tensors, {"y": np.full(3, 5, np.float32)}, given_.model)
    placed = place(made, calibrated(made), FUSING, weights=given_).model
    zeros = np.zeros((1, 3, 2, 2), np.float32)
    assert (run(placed, zeros) == 5).all()
    assert (run(placed, zeros, fetch="mid") == 0).all()


def test_a_file_comes_back_as_it_was(tmp_path):
    made = resnet()
    scales = chosen(made)
    tensors = dict(scales.tensors)
    w = conv_weights(made)["stem.w"]
    tensors["stem.w"] = Weight(weight_scale(w, 0), 0, quantize_weight(w, weight_scale(w, 0), 0))
    tensors["a1.w"] = Weight(np.asarray(0.5, np.float32), None)
    kept = Weights(tensors, {"stem": np.arange(16, dtype=np.float32)}, scales.model, {"scale": "mse", "bias": "none"})
    kept.save(tmp_path / "int8.safetensors")
    found = Weights.load(tmp_path / "int8.safetensors")
    assert (found.model, found.methods) == (kept.model, kept.methods)
    assert found.tensors.keys() == kept.tensors.keys()
    for name, weight in kept.tensors.items():
        assert found.tensors[name].axis == weight.axis
        np.testing.assert_array_equal(found.tensors[name].scale, weight.scale)
        assert (found.tensors[name].integers is None) == (weight.integers is None)
    np.testing.assert_array_equal(found.tensors["stem.w"].integers, tensors["stem.w"].integers)
    np.testing.assert_array_equal(found.biases["stem"], kept.biases["stem"])
    found.require(made)


def test_another_model_is_refused():
    made = resnet()
    with pytest.raises(CalibrationError, match="chosen for another model"):
        place(resnet(width=8), calibrated(resnet(width=8)), FUSING, weights=chosen(made))
    odd = Weights({"stem.w": Weight(np.ones(2, np.float32), 0)}, {}, digest(made))
    with pytest.raises(CalibrationError, match=r"of 'stem\.w' have another shape"):
        odd.require(made)
    with pytest.raises(CalibrationError, match="weight scale 'best': have max, mse"):
        chosen(made, "best")


HEAD = {"schema": SCHEMA, "model": "0", "methods": "{}", "axes": '{"w": 0}'}
SCALE = {"scale/w": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    ("head", "arrays", "message"),
    [
        ({"schema": "other/1"}, SCALE, "schema is 'other/1'"),
        ({"model": ""}, SCALE, "model is missing"),
        ({"axes": "{"}, SCALE, "axes is not JSON"),
        ({"axes": "[]"}, SCALE, "axes is not a JSON object"),
        ({"axes": "{}"}, SCALE, "axes and the tensors do not name the same weights"),
        ({"axes": '{"w": null}'}, SCALE, "axes.w is None, which does not fit its scale"),
        ({"axes": '{"w": "0"}'}, SCALE, "axes.w is '0', which does not fit its scale"),
        ({}, {"scale/w": -np.ones(2, np.float32)}, "scale/w is not float32, positive and finite"),
        ({}, {"scale/w": np.ones(2)}, "scale/w is not float32, positive and finite"),
        ({}, {"scale/w": np.full(2, np.nan, np.float32)}, "scale/w is not float32, positive and finite"),
        ({}, {**SCALE, "integers/w": np.full((2, 3), -128, np.int8)}, "integers/w are not int8 in -127…127"),
        ({}, {**SCALE, "integers/w": np.zeros((2, 3))}, "integers/w are not int8 in -127…127"),
        ({}, {**SCALE, "integers/w": np.zeros((3, 2), np.int8)}, "integers/w of shape (3, 2) have not 2 channels"),
        ({}, {**SCALE, "integers/v": np.zeros((2, 2), np.int8)}, "axes and the tensors do not name the same weights"),
        ({}, {**SCALE, "bias/y": np.full(2, np.inf, np.float32)}, "bias/y is not a vector of finite float32"),
        ({}, {**SCALE, "other": np.ones(2)}, "other is neither scale/…, integers/… nor bias/…"),
    ],
)
def test_files_that_are_wrong_say_where(tmp_path, head, arrays, message):
    path = tmp_path / "int8.safetensors"
    save_file(arrays, path, {**HEAD, **head})
    with pytest.raises(CalibrationError, match=rf"int8\.safetensors: {re.escape(message)}.*; calibrate again"):
        Weights.load(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(CalibrationError, match="no such file; `edgesmith calibrate` makes it"):
        Weights.load(tmp_path / "none")
    path = tmp_path / "int8.safetensors"
    path.write_text(json.dumps(HEAD))
    with pytest.raises(CalibrationError, match=r"no readable safetensors file .*; calibrate again"):
        Weights.load(path)


def test_layers_and_what_can_stand_as_their_bias():
    weights = {
        "conv": np.ones((2, 1, 1, 1), np.float32),
        "gemm": np.ones((4, 3), np.float32),
        "row": np.ones((1, 3), np.float32),
        "mat": np.ones((3, 3), np.float32),
        "double": np.ones((3, 3), np.float64),
    }
    nodes = [
        node("Gemm", ["x", "gemm", "row"], "a"),
        node("MatMul", ["a", "mat"], "b"),
        node("Cast", ["b"], "b64", to=11),
        node("MatMul", ["b64", "double"], "c64"),
        node("Cast", ["c64"], "c", to=1),
        node("Gemm", ["c", "mat"], "d", alpha=0.5),
        node("Gemm", ["d", "mat"], "y", transB=1),
    ]
    weights.pop("conv")
    found = layers(model(nodes, weights, (2, 4)))
    assert [(layer.output, layer.axis, layer.takes_bias) for layer in found] == [
        ("a", 1, False),
        ("b", 1, False),
        ("d", 1, False),
        ("y", 0, True),
    ]
