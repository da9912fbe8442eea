import numpy as np
import pytest
from calibration_nets import FUSING, array, by_op, calibrated, model, node, resnet, run, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.affine import fold_affine
from calibration.bias import (
    batch_norm_stats,
    clipped_normal,
    correct_analytically,
    correct_empirically,
    tensors_to_observe,
)
from calibration.graph import digest
from calibration.layers import layers, with_values
from calibration.moments import ChannelStats, channel_means, channel_stats
from calibration.placement import place
from calibration.weights import Weight, Weights, chosen


def coarse(made, step: float = 0.25) -> Weights:
    """Weights rounded so coarsely that their channels' means shift."""
    found = chosen(made, "max")
    tensors = {k: Weight(np.full_like(w.scale, step), w.axis) for k, w in found.tensors.items()}
    return Weights(tensors, {}, digest(made))


def with_rounded(made, weights: Weights, output: str):
    """The network with one op rounded, corrected as `weights` say."""
    (layer,) = (found for found in layers(made) if found.output == output)
    biases = {output: weights.biases[output]} if output in weights.biases else {}
    return with_values(made, {layer.name: weights.tensors[layer.name].real(layer.weight)}, biases)


def test_after_the_empirical_correction_each_op_by_itself_has_its_float_means():
    made = resnet()
    x = samples(8)
    batches = [{"x": x[:5]}, {"x": x[5:]}]
    done = correct_empirically(made, coarse(made), batches)
    assert done.skipped == {}
    names = [layer.output for layer in layers(made)]
    assert done.weights.biases.keys() == set(names)
    exact = channel_means(made, batches, names)
    for name in names:
        before, after = (
            channel_means(with_rounded(made, w, name), batches, [name]) for w in (coarse(made), done.weights)
        )
        assert np.abs(after[name] - exact[name]).max() < 1e-5
        assert np.abs(before[name] - exact[name]).max() > 1e-3


def slow_conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """3×3, padded by 1, (C, H, W), in plain loops and float64."""
    out = np.zeros((len(w), *x.shape[1:]))
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    for o in range(len(w)):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                out[o, i, j] = (padded[:, i : i + 3, j : j + 3] * w[o]).sum() + b[o]
    return out


def two_convs(bias: bool = True):
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(0.1, 0.4, (3, 3, 3, 3)).astype(np.float32) for i in range(2)}
    if bias:
        weights |= {f"b{i}": rng.normal(0, 0.4, 3).astype(np.float32) for i in range(2)}
    names = [["w0", "b0"], ["w1", "b1"]] if bias else [["w0"], ["w1"]]
    nodes = [
        node("Conv", ["x", *names[0]], "c", pads=[1] * 4),
        node("Relu", ["c"], "r"),
        node("Conv", ["r", *names[1]], "y", pads=[1] * 4),
    ]
    return model(nodes, weights, (1, 3, 5, 5))


@pytest.mark.parametrize("bias", [True, False])
def test_empirical_biases_are_those_of_plain_loops(bias):
    made = two_convs(bias)
    x = np.abs(samples(3, (3, 5, 5)))
    weights = coarse(made)
    w = [array(made, f"w{i}").astype(np.float64) for i in range(2)]
    q = [weights.tensors[f"w{i}"].real(array(made, f"w{i}")).astype(np.float64) for i in range(2)]
    b = [array(made, f"b{i}").astype(np.float64) if bias else np.zeros(3) for i in range(2)]
    read = list(x)
    expected = []
    for i in range(2):
        exact = [slow_conv(one, w[i], b[i]) for one in read]
        rounded = [slow_conv(one, q[i], b[i]) for one in read]
        shift = np.mean([r - e for r, e in zip(rounded, exact, strict=True)], axis=(0, 2, 3))
        expected.append(b[i] - shift)
        read = [np.maximum(one, 0) for one in exact]
    found = correct_empirically(made, weights, [{"x": x}]).weights.biases
    np.testing.assert_allclose(found["c"], expected[0], atol=1e-5)
    np.testing.assert_allclose(found["y"], expected[1], atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(mean=st.floats(-5, 5), std=st.floats(1e-3, 3), low=st.sampled_from([-np.inf, -1.0, 0.0]), high=st.floats(0.5, 7))
def test_the_mean_of_a_clipped_normal_is_its_integral(mean, std, low, high):
    z = np.linspace(-9, 9, 200_001)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    for top in (high, np.inf):
        integral = np.trapezoid(np.clip(mean + std * z, low, top) * density, z)
        assert clipped_normal(np.asarray([mean]), np.asarray([std]), low, top)[0] == pytest.approx(integral, abs=1e-5)


def test_a_channel_without_deviation_is_just_clipped():
    found = clipped_normal(np.asarray([-2.0, 3.0, 9.0]), np.zeros(3), 0.0, 6.0)
    np.testing.assert_array_equal(found, [0, 3, 6])


def with_norms(activation: str):
    """Conv, BatchNorm and activation, twice; depthwise the second time; then a Gemm on the pooled channels."""
    rng = np.random.default_rng(1)
    weights: dict[str, np.ndarray] = {"zero": np.float32(0), "six": np.float32(6)}
    nodes, name = [], "x"
    for i, (shape, groups) in enumerate((((6, 3, 3, 3), 1), ((6, 1, 3, 3), 6))):
        weights[f"w{i}"] = rng.normal(0.1, 0.3, shape).astype(np.float32)
        for part, value in (("gamma", 1.0), ("beta", 0.5), ("mean", 0.2), ("var", 1.0)):
            weights[f"{part}{i}"] = np.abs(rng.normal(value, 0.2, 6)).astype(np.float32)
        nodes.append(node("Conv", [name, f"w{i}"], f"c{i}", group=groups))
        nodes.append(node("BatchNormalization", [f"c{i}", f"gamma{i}", f"beta{i}", f"mean{i}", f"var{i}"], f"n{i}"))
        extra = ["zero", "six"] if activation == "Clip" else []
        nodes.append(node(activation, [f"n{i}", *extra], f"a{i}"))
        name = f"a{i}"
    weights["fc"] = rng.normal(0, 0.3, (4, 6)).astype(np.float32)
    nodes.append(node("GlobalAveragePool", [name], "g"))
    nodes.append(node("Flatten", ["g"], "f"))
    nodes.append(node("Gemm", ["f", "fc"], "y", transB=1))
    used = {n for made in nodes for n in made.input}
    return model(nodes, {k: v for k, v in weights.items() if k in used}, (1, 3, 12, 12))


@pytest.mark.parametrize("activation", ["Relu", "Clip", "LeakyRelu"])
def test_analytic_biases_come_from_batch_norms_as_in_plain_loops(activation):
    made = with_norms(activation)
    stats = batch_norm_stats(made)
    assert stats.keys() == {"n0", "n1"}
    folded = fold_affine(made)
    weights = coarse(folded)
    done = correct_analytically(folded, weights, stats)
    assert done.skipped == {"Conv_c0": "no statistics tell the mean of 'x'"}

    z = np.linspace(-9, 9, 20_001)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)

    def mean_of(i: int, channel: int) -> float:
        value = float(array(made, f"beta{i}")[channel]) + float(array(made, f"gamma{i}")[channel]) * z
        shaped = {
            "Relu": np.maximum(value, 0),
            "Clip": np.clip(value, 0, 6),
            "LeakyRelu": np.where(value > 0, value, 0.01 * value),
        }[activation]
        return float(np.trapezoid(shaped * density, z))

    by_output = {n.output[0]: n for n in folded.graph.node}
    w = array(folded, by_output["n1"].input[1])
    error = weights.tensors[by_output["n1"].input[1]].real(w).astype(np.float64) - w
    old = array(folded, by_output["n1"].input[2])
    for channel in range(6):
        shift = sum(error[channel, 0, i, j] * mean_of(0, channel) for i in range(3) for j in range(3))
        assert done.weights.biases["n1"][channel] == pytest.approx(old[channel] - shift, abs=1e-5)
    fc = array(folded, "fc")
    error = weights.tensors["fc"].real(fc).astype(np.float64) - fc
    for o in range(4):
        shift = sum(error[o, channel] * mean_of(1, channel) for channel in range(6))
        assert done.weights.biases["y"][o] == pytest.approx(-shift, abs=1e-5)


def test_observed_statistics_do_where_there_are_no_batch_norms():
    made = resnet()
    x = np.abs(samples(8))
    weights = coarse(made)
    wanted = tensors_to_observe(made, weights)
    assert wanted == ["x", "stem", "a1", "pool", "b1", "flat"]
    done = correct_analytically(made, weights, channel_stats(made, [{"x": x}], wanted))
    assert done.skipped == {}
    exact = channel_means(made, [{"x": x}], ["a1", "b1", "y"])
    before, after = (channel_means(w.applied(made), [{"x": x}], ["a1", "b1", "y"]) for w in (weights, done.weights))
    for name in ("a1", "b1", "y"):
        assert np.abs(after[name] - exact[name]).max() < 0.5 * np.abs(before[name] - exact[name]).max()


def test_sums_of_known_means_are_known_and_other_things_are_not():
    weights = {"w": np.full((2, 3, 1, 1), 0.6, np.float32), "v": np.full((3, 2, 1, 1), 0.6, np.float32)}
    nodes = [
        node("Conv", ["x", "w"], "a"),
        node("Add", ["a", "a"], "sum"),
        node("Conv", ["sum", "v"], "b"),
        node("Sigmoid", ["b"], "s"),
        node("Conv", ["s", "w"], "c"),
        node("ConvTranspose", ["c", "w"], "y"),
    ]
    made = model(nodes, weights, (1, 3, 4, 4))
    one = np.ones(2)
    done = correct_analytically(made, coarse(made), {"a": ChannelStats(one, one, -one, one)})
    assert done.skipped == {
        "Conv_a": "no statistics tell the mean of 'x'",
        "Conv_c": "no statistics tell the mean of 's'",
        "ConvTranspose_y": "how often it reads a position depends on the position",
    }
    # each weight went from 0.6 to 0.5, and reads two channels of mean 2
    np.testing.assert_allclose(done.weights.biases["b"], 2 * 2 * 0.1, rtol=1e-5)


def test_a_product_without_a_bias_says_so():
    made = model([node("MatMul", ["x", "w"], "y")], {"w": np.eye(4, dtype=np.float32)}, (2, 4))
    done = correct_empirically(made, coarse(made), [{"x": samples(2, (4,))}])
    assert done.skipped == {"MatMul_y": "it takes no bias per output channel"}
    assert done.weights.biases == {}


def test_dead_channels_keep_their_bias():
    made = two_convs()
    w = array(made, "w0").copy()
    w[1] = 0
    tensor = next(t for t in made.graph.initializer if t.name == "w0")
    tensor.raw_data = w.tobytes()
    found = correct_empirically(made, coarse(made), [{"x": samples(3, (3, 5, 5))}]).weights.biases
    assert found["c"][1] == pytest.approx(array(made, "b0")[1], abs=1e-6)


def test_the_placed_model_has_the_corrected_means():
    made = resnet()
    x = samples(32)
    done = correct_empirically(made, coarse(made, 0.1), [{"x": x}])
    ranges = calibrated(made, 32)
    exact = run(made, x).mean(axis=0)
    plain, corrected = (
        run(place(made, ranges, FUSING, weights=w).model, x).mean(axis=0) for w in (coarse(made, 0.1), done.weights)
    )
    assert np.abs(corrected - exact).max() < 0.3 * np.abs(plain - exact).max()
    assert len(by_op(place(made, ranges, FUSING, weights=done.weights).model, "Conv")) == 6
