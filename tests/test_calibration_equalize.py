import numpy as np
import pytest
from calibration_nets import array, model, node, resnet, run, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.equalize import absorb, equalize
from calibration.graph import index
from calibration.moments import channel_stats
from calibration.pairs import pairs

KINDS = ("plain", "depthwise", "grouped")
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "", "MaxPool", "Relu6")


def chain(seed: int, kinds: list[str], activations: list[str], spread: float = 2.0):
    """x (1, 4, 6, 6) → convolutions of 4 or 8 channels, each behind the activation of the one before → y."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {"zero": np.float32(0), "six": np.float32(6)}
    nodes, name, width = [], "x", 4
    for i, (kind, activation) in enumerate(zip(kinds, activations, strict=True)):
        groups = {"plain": 1, "depthwise": width, "grouped": 2}[kind]
        out = width if kind == "depthwise" else int(rng.choice([4, 8]))
        w = rng.normal(0, 0.5, (out, width // groups, 3, 3)) * 10.0 ** rng.uniform(-spread, 0, (out, 1, 1, 1))
        weights[f"w{i}"] = w.astype(np.float32)
        inputs = [name, f"w{i}"]
        if rng.random() < 0.7:
            weights[f"b{i}"] = rng.normal(0, 0.3, out).astype(np.float32)
            inputs.append(f"b{i}")
        last = i == len(kinds) - 1
        name = "y" if last else f"c{i}"
        nodes.append(node("Conv", inputs, name, pads=[1] * 4, group=groups))
        width = out
        if last or not activation:
            continue
        extra: dict[str, object] = {"kernel_shape": [3, 3], "pads": [1] * 4} if activation == "MaxPool" else {}
        more = []
        if activation == "PRelu":
            weights[f"slope{i}"] = rng.uniform(-0.5, 0.5, (width, 1, 1)).astype(np.float32)
            more = [f"slope{i}"]
        if activation == "Relu6":
            more = ["zero", "six"]
        op = {"Relu6": "Clip"}.get(activation, activation)
        nodes.append(node(op, [name, *more], f"a{i}", **extra))
        name = f"a{i}"
    used = {n for made in nodes for n in made.input}
    return model(nodes, {k: v for k, v in weights.items() if k in used}, (1, 4, 6, 6))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


def observed(made, x):
    names = [n.output[0] for n in made.graph.node if n.op_type == "Conv"]
    return channel_stats(made, [{"x": x}], names)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    layers=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(ACTIVATIONS)), min_size=2, max_size=5),
    with_stats=st.booleans(),
)
def test_the_function_is_preserved_and_ranges_are_alike(seed, layers, with_stats):
    made = chain(seed, [k for k, _ in layers], [a for _, a in layers])
    before = made.SerializeToString()
    x = samples(4, (4, 6, 6), seed)
    equal = equalize(made, observed(made, x) if with_stats else None)
    assert made.SerializeToString() == before
    assert relative(run(made, x), run(equal.model, x)) < 1e-5
    clipped = sum(a == "Relu6" for _, a in layers[:-1])
    assert len(equal.pairs) == len(layers) - 1 - (0 if with_stats else clipped)
    if not with_stats:
        for pair in pairs(equal.model)[0]:
            if not np.isfinite(pair.bound):
                first, second = _ranges(equal.model, pair)
                np.testing.assert_allclose(first, second, rtol=1e-3)


def _ranges(made, pair) -> tuple[list[float], list[float]]:
    """What writes and what reads each channel, in plain loops."""
    w, v = (array(made, layer.name).astype(np.float64) for layer in (pair.first, pair.second))
    per_group = v.shape[1]
    rows = len(v) // pair.groups
    writing = [max(abs(value) for value in row.reshape(-1)) for row in w]
    reading = []
    for channel in range(len(w)):
        group = channel // per_group
        readers = range(group * rows, (group + 1) * rows)
        reading.append(max(float(np.abs(v[o, channel % per_group]).max()) for o in readers))
    return writing, reading


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_plain_loops(kind):
    made = chain(3, ["plain", kind, "plain"], ["Relu", "Relu", ""])
    equal = equalize(made).model
    w = [array(made, f"w{i}").astype(np.float64) for i in range(3)]
    groups = {"plain": 1, "depthwise": w[0].shape[0], "grouped": 2}[kind]
    for _ in range(500):
        for a, b, parts in ((w[0], w[1], groups), (w[1], w[2], 1)):
            for channel in range(len(a)):
                per, rows = b.shape[1], len(b) // parts
                readers = b[channel // per * rows : (channel // per + 1) * rows, channel % per]
                ratio = np.sqrt(np.abs(a[channel]).max() / np.abs(readers).max())
                a[channel] /= ratio
                readers *= ratio
    for i in range(3):
        np.testing.assert_allclose(array(equal, f"w{i}"), w[i], rtol=1e-3)


def test_statistics_follow_and_no_tensor_gets_wider():
    made = chain(5, ["plain", "depthwise", "plain"], ["Relu", "Relu6", ""], spread=3)
    x = samples(4, (4, 6, 6))
    stats = observed(made, x)
    equal = equalize(made, stats)
    after = observed(equal.model, x)
    for name, seen in equal.stats(stats).items():
        np.testing.assert_allclose(seen.mean, after[name].mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(seen.maximum, after[name].maximum, rtol=1e-3, atol=1e-5)
        assert after[name].maximum.max() <= stats[name].maximum.max() * (1 + 1e-5)


def test_a_channel_that_is_all_bias_does_not_widen_its_tensor():
    """The trap: equalizing its tiny weights alone would blow its bias up to 100 000."""
    weights = {
        "w": np.asarray([1, 1e-10], np.float32).reshape(2, 1, 1, 1),
        "b": np.asarray([0, 1], np.float32),
        "v": np.asarray([[1, 1]], np.float32).reshape(1, 2, 1, 1),
    }
    nodes = [node("Conv", ["x", "w", "b"], "c"), node("Relu", ["c"], "r"), node("Conv", ["r", "v"], "y")]
    made = model(nodes, weights, (1, 1, 4, 4))
    x = samples(4, (1, 4, 4))
    reach = observed(made, x)["c"].maximum.max()
    assert np.abs(array(equalize(made).model, "b")).max() > 1e4
    assert np.abs(array(equalize(made, observed(made, x)).model, "b")).max() <= reach


def test_channels_that_reach_six_keep_their_scale():
    weights = {
        "w": np.asarray([10, 0.01, 0.5, 0.0], np.float32).reshape(4, 1, 1, 1),
        "v": np.asarray([[0.1, 1, 1, 1]], np.float32).reshape(1, 4, 1, 1),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    nodes = [node("Conv", ["x", "w"], "c"), node("Clip", ["c", "zero", "six"], "r"), node("Conv", ["r", "v"], "y")]
    made = model(nodes, weights, (1, 1, 4, 4))
    x = samples(8, (1, 4, 4))
    equal = equalize(made, observed(made, x))
    gain = equal.gains["c"]
    assert (gain[0], gain[3]) == (1, 1)
    assert gain[1] == pytest.approx(0.1)
    assert gain[2] == pytest.approx(np.sqrt(0.5))
    assert relative(run(made, x), run(equal.model, x)) < 1e-5
    assert equalize(made).skipped == {
        "Conv_y": "its output is the model's",
        "Conv_c → Conv_y": "its Clip cuts off at 6, and no statistics say what reaches that",
    }


def test_dead_channels_stay_as_they_are():
    made = chain(0, ["plain", "plain"], ["Relu", ""])
    w, v = array(made, "w0").copy(), array(made, "w1").copy()
    w[0], v[:, 1] = 0, 0
    for tensor in made.graph.initializer:
        if tensor.name in ("w0", "w1"):
            tensor.raw_data = (w if tensor.name == "w0" else v).tobytes()
    equal = equalize(made)
    assert (equal.gains["c0"][:2] == 1).all()
    assert not (equal.gains["c0"][2:] == 1).any()
    x = samples(2, (4, 6, 6))
    assert relative(run(made, x), run(equal.model, x)) < 1e-5


def test_what_cannot_be_equalized_says_why():
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    weights = {"tied": eye, "w": eye, "v": eye, "u": eye, "t": eye, "s": eye, "low": np.float32(-1)}
    nodes = [
        node("Conv", ["x", "tied"], "a"),
        node("Conv", ["a", "tied"], "b"),
        node("Conv", ["b", "w"], "c"),
        node("Add", ["c", "b"], "sum"),
        node("Conv", ["sum", "v"], "d"),
        node("Sigmoid", ["d"], "e"),
        node("Conv", ["e", "u"], "f"),
        node("Clip", ["f", "low"], "g"),
        node("Conv", ["g", "t", "bias"], "h"),
        node("Conv", ["h", "s"], "y"),
    ]
    nodes.insert(8, node("ReduceMax", ["x"], "bias", axes=[0, 2, 3], keepdims=0))
    made = model(nodes, weights, (1, 3, 4, 4))
    equal = equalize(made)
    assert equal.pairs == ()
    tied = "the weight 'tied' is used more than once"
    assert equal.skipped == {
        "Conv_a": tied,
        "Conv_b": tied,
        "Conv_c": "Add_sum (Add) stands between it and the next convolution",
        "Conv_d": "Sigmoid_e (Sigmoid) stands between it and the next convolution",
        "Conv_f": "Clip_g (Clip) stands between it and the next convolution",  # it cuts off at -1
        "Conv_h": "the bias of Conv_h is computed, not stored",
        "Conv_y": "its output is the model's",
    }


def test_residual_networks_are_equalized_inside_their_blocks():
    made = resnet()
    equal = equalize(made)
    assert equal.pairs == ("Conv_a1 → Conv_a2", "Conv_b1 → Conv_b2")
    assert equal.skipped.keys() == {"Conv_stem", "Conv_a2", "Conv_short", "Conv_b2"}
    x = samples(2)
    assert relative(run(made, x), run(equal.model, x)) < 1e-5


def shifted_pair(pads: int = 0, activation: str = "Relu", bias: bool = True):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.2, (5, 3, 1, 1)).astype(np.float32),
        "b": np.asarray([0, 4, 9, -3, 6], np.float32),
        "v": rng.normal(0, 0.2, (4, 5, 3, 3)).astype(np.float32),
        "d": rng.normal(0, 0.2, 4).astype(np.float32),
    }
    if not bias:
        weights.pop("d")
    inputs = ["r", "v", "d"] if bias else ["r", "v"]
    nodes = [
        node("Conv", ["x", "w", "b"], "c"),
        node(activation, ["c"], "r"),
        node("Conv", inputs, "y", pads=[pads] * 4),
    ]
    return model(nodes, weights, (1, 3, 6, 6))


@pytest.mark.parametrize("bias", [True, False])
def test_high_biases_are_absorbed_as_plain_loops_do(bias):
    made = shifted_pair(bias=bias)
    x = samples(8, (3, 6, 6))
    stats = observed(made, x)
    done = absorb(made, stats)
    assert done.pairs == ("Conv_c → Conv_y",)
    seen = stats["c"]
    b, v = array(made, "b").astype(np.float64), array(made, "v").astype(np.float64)
    d = array(made, "d").astype(np.float64) if bias else np.zeros(4)
    moved = 0
    for i in range(5):
        c = max(0.0, seen.mean[i] - 3 * seen.std[i])
        moved += c > 0
        b[i] -= c
        for o in range(4):
            d[o] += sum(v[o, i, k, m] for k in range(3) for m in range(3)) * c
    assert moved == 3
    conv = next(n for n in done.model.graph.node if n.output[0] == "y")
    np.testing.assert_allclose(array(done.model, "b"), b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(array(done.model, conv.input[2]), d, rtol=1e-5, atol=1e-5)
    # what lies more than 3 standard deviations below the mean is all that may differ
    assert relative(run(made, x), run(done.model, x)) < 0.02
    after = observed(done.model, x)["c"]
    assert (after.maximum <= seen.maximum + 1e-6).all()
    assert after.maximum[2] < seen.maximum[2] - 3


def test_absorbing_changes_nothing_where_all_lies_above():
    made = shifted_pair()
    x = samples(8, (3, 6, 6)).clip(-1, 1)
    x = np.repeat(x.mean(axis=(2, 3), keepdims=True), 6, axis=2).repeat(6, axis=3)
    done = absorb(made, observed(made, x))
    assert done.pairs
    assert relative(run(made, x), run(done.model, x)) < 1e-5


def test_what_cannot_be_absorbed_says_why():
    x = samples(4, (3, 6, 6))
    padded = shifted_pair(pads=1)
    done = absorb(padded, observed(padded, x))
    assert done.pairs == ()
    assert "zeros pad" in done.skipped["Conv_c → Conv_y"]
    assert array(done.model, "b") == pytest.approx(array(padded, "b"))
    assert absorb(padded, {}).skipped["Conv_c → Conv_y"] == "no statistics of it"


def test_the_output_of_the_model_is_not_rescaled():
    made = chain(1, ["plain", "plain"], ["Relu", ""])
    both = model(
        list(made.graph.node), {t.name: array(made, t.name) for t in made.graph.initializer}, (1, 4, 6, 6), ("c0", "y")
    )
    assert equalize(both).skipped["Conv_c0"] == "its output is the model's"
    assert index(equalize(both).model.graph).outputs == {"c0", "y"}
