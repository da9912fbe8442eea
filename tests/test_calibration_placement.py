from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_nets import (
    FUSING,
    SCHEMES,
    SYMMETRIC,
    WRITING,
    array,
    by_op,
    calibrated,
    model,
    node,
    resnet,
    run,
    samples,
    saved,
    single_conv,
    sqnr_db,
)
from onnx import helper

from calibration.collect import collect
from calibration.errors import CalibrationError
from calibration.graph import index
from calibration.observers.minmax import Minmax
from calibration.placement import Placement, place
from calibration.ranges import Ranges
from targets.base import Int8Scheme


def pairs(placed: Placement) -> set[str]:
    """Tensors that have a pair."""
    return {n.input[0] for n in placed.model.graph.node if n.op_type == "QuantizeLinear"}


@SCHEMES
@pytest.mark.parametrize("mean", ["GlobalAveragePool", "ReduceMean"])
def test_the_result_is_valid_close_to_float_and_small(scheme, mean):
    made = resnet(mean=mean)
    helper.set_model_props(made, {"classes": "a,b"})
    before = made.SerializeToString()
    placed = place(made, calibrated(made, 16), scheme)
    onnx.checker.check_model(placed.model, full_check=True)
    assert made.SerializeToString() == before
    assert placed.model.metadata_props == made.metadata_props
    assert placed.model.graph.input == made.graph.input
    assert placed.model.graph.output == made.graph.output
    x = samples(16, seed=9)
    assert sqnr_db(run(made, x), run(placed.model, x)) > 25
    floats = sum(np.prod(t.dims) for t in placed.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    weights = sum(np.prod(t.dims) for t in made.graph.initializer)
    assert floats < 0.05 * weights
    assert placed.model.ByteSize() < made.ByteSize() / 2  # Q/DQ nodes weigh much in so small a model


def test_pairs_of_a_residual_network_that_fuses():
    made = resnet()
    placed = place(made, calibrated(made), FUSING)
    # behind activations, never between a convolution and its Relu; of the two inputs of each add, the one
    # that a kernel can add on its accumulator has none
    assert pairs(placed) == {"x", "stem.relu", "a1.relu", "pool", "b1.relu", "short", "flat"}
    assert placed.skipped == {}
    assert len(placed.quantized) == 6 + 1 + 2


def test_pairs_of_a_residual_network_whose_kernels_write_int8():
    made = resnet()
    placed = place(made, calibrated(made), WRITING)
    inputs = {"x", "stem.relu", "a1.relu", "a2", "pool", "b1.relu", "b2", "short", "flat"}
    assert pairs(placed) == inputs | {"a.relu", "b.relu"}


def test_each_tensor_has_one_pair_that_all_readers_share():
    made = resnet()
    for scheme in (FUSING, WRITING):
        placed = place(made, calibrated(made), scheme)
        counts = Counter(n.input[0] for n in by_op(placed.model, "QuantizeLinear"))
        assert set(counts.values()) == {1}
        found = index(placed.model.graph)
        for name in counts:
            readers = [n.op_type for n in found.readers[name]]
            assert readers == ["QuantizeLinear"]
        shared = found.producer[by_op(placed.model, "Add")[0].input[1]]
        assert [n.op_type for n in found.readers[shared.output[0]]] == ["Conv", "Add"]


def test_what_only_rearranges_values_keeps_their_scale():
    made = resnet()
    joined = ("Add", "MaxPool", "GlobalAveragePool")
    placed = place(made, calibrated(made), Int8Scheme(joined=joined, quantize_outputs=True))
    scale = {n.input[0]: array(placed.model, n.input[1]) for n in by_op(placed.model, "QuantizeLinear")}
    assert scale["pool"] == scale["a.relu"]
    assert scale["flat"] == scale["mean"]
    assert scale["mean"] != scale["b.relu"]


def test_model_outputs_stay_float_even_where_others_read_them():
    weights = {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)}
    nodes = [node("Conv", ["x", "w"], "mid"), node("Conv", ["mid", "w"], "y")]
    made = model(nodes, weights, (1, 3, 8, 8), outputs=("mid", "y"))
    placed = place(made, calibrated(made), WRITING)
    found = index(placed.model.graph)
    assert found.producer["mid"].op_type == found.producer["y"].op_type == "Conv"
    assert pairs(placed) == {"x", "mid"}


def test_weights_are_stored_once_as_int8_behind_a_dequantizer_only():
    weights = {"w": np.random.default_rng(0).normal(0, 1, (3, 3, 1, 1)).astype(np.float32)}
    nodes = [node("Conv", ["x", "w"], "mid"), node("Conv", ["mid", "w"], "y")]
    made = model(nodes, weights, (1, 3, 8, 8))
    placed = place(made, calibrated(made), FUSING).model
    constants = index(placed.graph).constants
    int8 = [t for t in constants.values() if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(int8) == 1
    assert "w" not in constants
    first, second = (n.input[1] for n in by_op(placed, "Conv"))
    assert first == second


def test_a_weight_that_a_float_op_reads_too_is_kept():
    weights = {"w": np.ones((8, 8), np.float32)}
    nodes = [node("MatMul", ["x", "w"], "m"), node("Mul", ["m", "w"], "y")]
    made = model(nodes, weights, (8, 8))
    placed = place(made, calibrated(made, 8), FUSING).model
    assert "w" in index(placed.graph).constants
    onnx.checker.check_model(placed, full_check=True)


def test_small_gemms_stay_float_and_say_why():
    made = resnet(width=4)
    placed = place(made, calibrated(made), SYMMETRIC)
    assert placed.skipped == {"Gemm_y": "its weight is 8 × 32, under the least size 16"}
    assert "flat" not in pairs(placed)
    assert "Gemm_y" in place(made, calibrated(made), FUSING).quantized


def test_what_cannot_be_quantized_says_why():
    half = np.ones((4, 4), np.float16)
    nodes = [
        node("Add", ["x", "one"], "shifted"),
        node("MatMul", ["x", "shifted"], "both"),
        node("Cast", ["both"], "half", to=onnx.TensorProto.FLOAT16),
        node("MatMul", ["half", "w16"], "half.out"),
        node("Conv", ["image", "computed"], "conv"),
        node("Unsqueeze", ["both", "axes"], "image"),
        node("Unsqueeze", ["shifted", "axes"], "computed"),
        node("Gemm", ["fixed", "shifted"], "y"),
    ]
    order = [0, 1, 2, 3, 5, 6, 4, 7]
    weights = {
        "one": np.float32(1),
        "w16": half,
        "axes": np.asarray([0, 1]),
        "fixed": np.ones((4, 4), np.float32),
    }
    made = model([nodes[i] for i in order], weights, (4, 4))
    placed = place(made, calibrated(made), FUSING)
    assert placed.quantized == ("MatMul_both",)
    assert placed.skipped == {
        "Add_shifted": "its input 'one' is a constant",
        "Conv_conv": "its weight is computed, not stored",
        "Gemm_y": "its weight is computed, not stored",
    }


def test_integer_arithmetic_is_no_business_of_ours():
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Add", ["shape", "shape"], "twice"),
        node("Cast", ["twice"], "y", to=onnx.TensorProto.FLOAT),
    ]
    made = model(nodes, {}, (1, 4))
    placed = place(made, calibrated(made), FUSING)
    assert (placed.quantized, dict(placed.skipped)) == ((), {})
    assert placed.model.graph.node == made.graph.node


def test_a_dynamic_batch(tmp_path):
    made = resnet(batch="N")
    x = samples(6)
    placed = place(made, collect(saved(made, tmp_path), [{"x": x}], Minmax()), WRITING).model
    session = ort.InferenceSession(placed.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": x[:5]})[0].shape == (5, 32)
    assert sqnr_db(run(made, x), run(placed, x)) > 25


def test_ranges_of_another_model_or_without_a_tensor():
    made = resnet()
    ranges = calibrated(made)
    with pytest.raises(CalibrationError, match="collected on another model"):
        place(resnet(width=8), ranges, FUSING)
    less = {k: v for k, v in ranges.tensors.items() if k not in ("pool", "flat")}
    with pytest.raises(CalibrationError, match="lack 'pool', 'flat': calibrate"):
        place(made, Ranges(less, 1, "minmax", {}, ranges.model), FUSING)


def test_models_that_cannot_take_pairs():
    made = single_conv()
    ranges = calibrated(made)
    twice = place(made, ranges, FUSING).model
    with pytest.raises(CalibrationError, match="has QuantizeLinear nodes already"):
        place(twice, ranges, FUSING)
    with pytest.raises(CalibrationError, match="activation is 'int4'"):
        place(made, ranges, Int8Scheme(activation="int4"))
    made.opset_import[0].version = 12
    with pytest.raises(CalibrationError, match="has opset 12; int8 needs 13 or later"):
        place(made, ranges, FUSING)


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_opsets(opset):
    weights = {"w": np.random.default_rng(0).normal(0, 1, (4, 3, 1, 1)).astype(np.float32)}
    made = model([node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "y")], weights, (1, 3, 8, 8), opset=opset)
    placed = place(made, calibrated(made), FUSING).model
    onnx.checker.check_model(placed, full_check=True)
    assert sqnr_db(run(made, samples(4, (3, 8, 8))), run(placed, samples(4, (3, 8, 8)))) > 25


def test_a_computed_bias_gets_no_pair():
    nodes = [node("Relu", ["x"], "bias"), node("Gemm", ["x", "w", "bias"], "y")]
    made = model(nodes, {"w": np.eye(4, dtype=np.float32)}, (4, 4))
    assert pairs(place(made, calibrated(made), WRITING)) == {"x"}


def by_name(made, name):
    return next(n for n in made.graph.node if n.name == name)


@SCHEMES
def test_what_is_excluded_stays_in_float_and_says_by_whom(scheme):
    made = resnet()
    whole = place(made, calibrated(made), scheme)
    placed = place(made, calibrated(made), scheme, exclude={"Conv_b1": "accuracy control"})
    assert set(whole.quantized) - set(placed.quantized) == {"Conv_b1"}
    assert placed.skipped == {"Conv_b1": "left in float by accuracy control"}
    constants = index(placed.model.graph).constants
    assert np.array_equal(array(made, "b1.w"), array(placed.model, "b1.w"))
    assert "a1.w" not in constants
    onnx.checker.check_model(placed.model, full_check=True)


@SCHEMES
def test_with_everything_excluded_the_model_is_the_float_one(scheme):
    made = resnet()
    every = [n.name for n in made.graph.node]
    placed = place(made, calibrated(made), scheme, exclude=every)
    assert placed.quantized == ()
    assert set(placed.skipped.values()) == {"left in float by request"}
    assert placed.model.graph.node == made.graph.node
    assert np.array_equal(run(made, samples(2)), run(placed.model, samples(2)))


def test_a_shared_input_keeps_its_pair_while_one_of_its_readers_is_in_int8():
    made = resnet()
    assert "pool" in pairs(place(made, calibrated(made), FUSING, exclude=["Conv_b1"]))
    assert "pool" not in pairs(place(made, calibrated(made), FUSING, exclude=["Conv_b1", "Conv_short"]))


@pytest.mark.parametrize("name", ["Conv_b1", "Conv_short", "Conv_a1", "Gemm_y"])
def test_what_is_excluded_runs_in_float_on_onnxruntime_too(name, tmp_path):
    """It would round the float weight of a convolution between two pairs."""
    made = resnet()
    placed = place(made, calibrated(made), WRITING, exclude=[name])
    run(placed.model, samples(1), tmp_path / "optimized.onnx")
    optimized = onnx.load(tmp_path / "optimized.onnx")
    products = by_op(optimized, "Conv") + by_op(optimized, "FusedConv") + by_op(optimized, "Gemm")
    output = by_name(made, name).output[0]
    assert {name, f"{output}_nchwc"} & {n.name for n in products}  # onnxruntime renames what it reorders


def test_excluding_what_is_not_there_is_an_error():
    made = resnet()
    with pytest.raises(CalibrationError, match="no op of the model is named 'Conv_b9': it cannot be left in float"):
        place(made, calibrated(made), FUSING, exclude=["Conv_b9", "Conv_b1"])
