import numpy as np
import pytest
from calibration_nets import FUSING, calibrated, model, node, resnet, run, samples, sqnr_db

from calibration.adaround import Annealing
from calibration.errors import CalibrationError
from calibration.graph import digest
from calibration.layers import layers
from calibration.placement import place
from calibration.rounding import adaround
from calibration.weights import Weight, Weights, chosen
from calibration.windows import count, from_matrices, matrices, rows


def coarse(made, bits: int = 4) -> Weights:
    found = chosen(made, "max")
    step = 127 / (2 ** (bits - 1) - 1)
    tensors = {k: Weight((w.scale * step).astype(np.float32), w.axis) for k, w in found.tensors.items()}
    return Weights(tensors, {}, digest(made))


CONVOLUTIONS = {
    "plain": ((5, 4, 3, 3), {}),
    "strided": ((5, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 3]}),
    "dilated": ((5, 4, 3, 2), {"pads": [2, 1, 2, 1], "dilations": [2, 3]}),
    "grouped": ((6, 2, 3, 3), {"pads": [1] * 4, "group": 2}),
    "depthwise": ((4, 1, 3, 3), {"pads": [1] * 4, "group": 4}),
    "same upper": ((5, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((5, 4, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [3, 1]}),
    "valid": ((5, 4, 4, 3), {"auto_pad": "VALID"}),
    "one dimension": ((5, 4, 3), {"pads": [1, 2], "strides": [2]}),
    "three dimensions": ((5, 4, 2, 3, 2), {"pads": [1, 0, 1, 0, 1, 1]}),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_a_product_of_rows(kind):
    shape, options = CONVOLUTIONS[kind]
    rng = np.random.default_rng(0)
    w = rng.normal(0, 1, shape).astype(np.float32)
    space = (9, 8, 6)[: len(shape) - 2]
    made = model([node("Conv", ["x", "w"], "y", **options)], {"w": w}, (2, 4, *space))
    x = samples(2, (4, *space))
    y = np.concatenate([run_pair(made, x)])
    (layer,) = layers(made)
    positions = rng.permutation(count(layer, y))
    data, out = rows(layer, x, y, positions)
    product = data @ matrices(layer, w).swapaxes(1, 2)
    np.testing.assert_allclose(product.transpose(1, 0, 2).reshape(len(positions), -1), out, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(out, np.moveaxis(y, 1, -1).reshape(-1, shape[0])[positions])
    np.testing.assert_array_equal(from_matrices(layer, matrices(layer, w)), w)


def run_pair(made, x):
    import onnxruntime as ort

    return ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    ("op", "options", "shape", "data"),
    [
        ("Gemm", {}, (6, 4), (5, 6)),
        ("Gemm", {"transB": 1}, (4, 6), (5, 6)),
        ("MatMul", {}, (6, 4), (2, 5, 6)),
    ],
)
def test_a_matrix_product_is_one_too(op, options, shape, data):
    w = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    made = model([node(op, ["x", "w"], "y", **options)], {"w": w}, data)
    x = samples(data[0], data[1:])
    y = run_pair(made, x)
    (layer,) = layers(made)
    positions = np.asarray([3, 0, 2])
    read, out = rows(layer, x, y, positions)
    np.testing.assert_allclose((read @ matrices(layer, w).swapaxes(1, 2))[0], out, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(from_matrices(layer, matrices(layer, w)), w)


def test_a_network_rounded_to_four_bits_comes_closer():
    made = resnet()
    x, unseen = samples(24), samples(24, seed=99)
    told = []
    nearest = coarse(made)
    done = adaround(
        made, nearest, lambda: [{"x": x[:12]}, {"x": x[12:]}], Annealing(300), lambda *args: told.append(args)
    )
    assert done.skipped == {}
    assert [name for name, *_ in told] == list(done.errors)
    assert all(after <= before for before, after in done.errors.values())
    assert np.mean([after / before for before, after in done.errors.values()]) < 0.7
    exact = run(made, unseen)
    before, after = (sqnr_db(exact, run(w.applied(made), unseen)) for w in (nearest, done.weights))
    assert after > before + 2
    for layer in layers(made):
        grid = layer.weight / nearest.tensors[layer.name].scale.reshape([-1] + [1] * (layer.weight.ndim - 1))
        assert (np.abs(done.weights.tensors[layer.name].integers - grid) < 1 + 1e-4).all()
    placed = place(made, calibrated(made, 24), FUSING, weights=done.weights)
    assert placed.nearest == {}
    assert sqnr_db(exact, run(placed.model, unseen)) > before + 1


def test_errors_that_data_cannot_tell_apart_cancel():
    """The trap of rounding to nearest: nine weights of 0.4 that read one value become nine zeros."""
    w = np.full((1, 1, 3, 3), 0.4, np.float32)
    w[0, 0, 0, 0] = 12.7
    made = model([node("Conv", ["x", "w"], "y")], {"w": w}, (1, 1, 8, 8))
    x = np.repeat(samples(32, (1, 1, 1)), 8, axis=2).repeat(8, axis=3)
    scale = Weights({"w": Weight(np.ones(1, np.float32), 0)}, {}, digest(made))
    done = adaround(made, scale, lambda: [{"x": x}], Annealing(300))
    assert scale.tensors["w"].rounded(w).sum() == 13
    assert done.weights.tensors["w"].integers.sum() == round(12.7 + 8 * 0.4)


def test_the_same_seed_gives_the_same_integers():
    made = resnet(width=4)
    x = samples(8)
    first, again, other = (
        adaround(made, coarse(made), lambda: [{"x": x}], Annealing(30, rows=32), seed=seed).weights.tensors["b1.w"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.integers, again.integers)
    assert (first.integers != other.integers).any()


def test_what_is_left_at_nearest_says_why():
    eye = np.eye(3, dtype=np.float32)
    conv = eye.reshape(3, 3, 1, 1)
    weights = {"tied": conv, "t": conv, "z": 0 * conv, "w": conv, "n": np.full(3, -1, np.float32), "row": eye[:1]}
    nodes = [
        node("Conv", ["x", "tied"], "a"),
        node("Conv", ["a", "tied"], "b"),
        node("ConvTranspose", ["b", "t"], "c"),
        node("Conv", ["c", "z", "n"], "d"),
        node("Relu", ["d"], "e"),
        node("ConvTranspose", ["e", "g"], "f", group=3),
        node("GlobalAveragePool", ["f"], "p"),
        node("Flatten", ["p"], "h"),
        node("Gemm", ["h", "m", "row"], "i"),
        node("Gemm", ["i", "m2"], "j", alpha=2.0),
        node("Gemm", ["j", "m3"], "y", transA=1),
    ]
    weights |= {"g": conv[:, :1].copy(), "m": eye, "m2": eye.copy(), "m3": np.ones((1, 3), np.float32)}
    weights.pop("w")
    made = model(nodes, weights, (1, 3, 4, 4))
    done = adaround(made, chosen(made), lambda: [{"x": samples(2, (3, 4, 4))}], Annealing(5))
    assert done.errors == {}
    assert done.skipped == {
        "Conv_a": "the weight 'tied' is used more than once",
        "Conv_b": "the weight 'tied' is used more than once",
        "ConvTranspose_c": "it is transposed",
        "Conv_d": "its output is zero on all of the data",
        "ConvTranspose_f": "it has one scale for all channels",
        "Gemm_i": "its bias is computed, or not one number per channel",
        "Gemm_j": "its product is scaled",
        "Gemm_y": "its data is transposed",
    }
    with pytest.raises(CalibrationError, match="no samples"):
        adaround(made, chosen(made), lambda: [])


def test_dead_channels_stay_dead():
    made = resnet(width=4)
    tensor = next(t for t in made.graph.initializer if t.name == "a1.w")
    w = layers(made)[1].weight.copy()
    w[1] = 0
    tensor.raw_data = w.tobytes()
    done = adaround(made, chosen(made), lambda: [{"x": samples(4)}], Annealing(20))
    assert (done.weights.tensors["a1.w"].integers[1] == 0).all()
