import numpy as np
import onnx
import pytest
from calibration_nets import model, node, resnet, run, samples
from onnx import TensorProto, helper, numpy_helper

from calibration.errors import CalibrationError
from calibration.graph import (
    Names,
    activations,
    copy_with_constants_lifted,
    drop_unread_initializers,
    fold_batch_norm,
    index,
    load_model,
    pool_spatial_means,
)


def norm_weights(seed: int, channels: int, name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"{name}.gamma": rng.uniform(-2, 2, channels).astype(np.float32),
        f"{name}.beta": rng.normal(0, 1, channels).astype(np.float32),
        f"{name}.mean": rng.normal(0, 1, channels).astype(np.float32),
        f"{name}.var": rng.uniform(0.1, 3, channels).astype(np.float32),
    }


def conv_weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_folding_is_exact(groups, bias):
    conv = {"w": conv_weights(0, (8, 4 // groups, 3, 3))} | ({"b": conv_weights(1, (8,))} if bias else {})
    norm = norm_weights(2, 8, "n")
    nodes = [
        node("Conv", ["x", *conv], "c", group=groups, pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", *norm], "n", epsilon=0.01),
        node("Relu", ["n"], "y"),
    ]
    made = model(nodes, conv | norm, (1, 4, 6, 6))
    folded = fold_batch_norm(made)
    onnx.checker.check_model(folded, full_check=True)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Relu"]
    assert len(folded.graph.initializer) == 2
    x = samples(3, (4, 6, 6))
    np.testing.assert_allclose(run(folded, x), run(made, x), rtol=1e-5, atol=1e-5)
    assert made.graph.node[1].op_type == "BatchNormalization"


def test_a_weight_that_two_convolutions_share_is_copied_not_changed():
    weights = {"w": conv_weights(0, (4, 4, 1, 1))} | norm_weights(1, 4, "n")
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("BatchNormalization", ["c", *list(weights)[1:]], "n"),
        node("Conv", ["n", "w"], "y"),
    ]
    made = model(nodes, weights, (1, 4, 5, 5))
    folded = fold_batch_norm(made)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Conv"]
    x = samples(2, (4, 5, 5))
    np.testing.assert_allclose(run(folded, x), run(made, x), rtol=1e-5, atol=1e-5)


def test_a_norm_whose_convolution_others_read_stays():
    weights = {"w": conv_weights(0, (4, 4, 1, 1))} | norm_weights(1, 4, "n")
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("BatchNormalization", ["c", *list(weights)[1:]], "n"),
        node("Add", ["n", "c"], "y"),
    ]
    folded = fold_batch_norm(model(nodes, weights, (1, 4, 5, 5)))
    assert "BatchNormalization" in [n.op_type for n in folded.graph.node]


def test_spatial_means_become_pools():
    made = resnet(mean="ReduceMean")
    pooled = pool_spatial_means(made)
    onnx.checker.check_model(pooled, full_check=True)
    ops = [n.op_type for n in pooled.graph.node]
    assert ("GlobalAveragePool" in ops, "ReduceMean" in ops) == (True, False)
    assert "axes" not in {t.name for t in pooled.graph.initializer}
    np.testing.assert_allclose(run(pooled, samples(2)), run(made, samples(2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attributes", [{"axes": [1, 2]}, {"axes": [2]}, {}, {"axes": [2, 3], "keepdims": 0}])
def test_other_means_stay(attributes):
    made = model([node("ReduceMean", ["x"], "y", **attributes)], {}, (1, 2, 3, 4))
    assert [n.op_type for n in pool_spatial_means(made).graph.node] == ["ReduceMean"]


def test_constant_nodes_become_initializers():
    value = numpy_helper.from_array(np.asarray([2.0], np.float32))
    nodes = [
        helper.make_node("Constant", [], ["two"], value=value),
        helper.make_node("Constant", [], ["three"], value_float=3.0),
        helper.make_node("Constant", [], ["shape"], value_ints=[1, -1]),
        node("Mul", ["x", "two"], "m"),
        node("Add", ["m", "three"], "a"),
        node("Reshape", ["a", "shape"], "y"),
    ]
    made = model(nodes, {}, (1, 2, 3))
    lifted = copy_with_constants_lifted(made)
    assert {t.name for t in lifted.graph.initializer} == {"two", "three", "shape"}
    x = samples(2, (2, 3))
    np.testing.assert_array_equal(run(lifted, x), run(made, x))


def test_activations_depend_on_the_inputs():
    nodes = [
        node("Relu", ["w"], "constant"),
        node("Add", ["x", "constant"], "a"),
        node("Shape", ["a"], "shape"),
        node("Relu", ["a"], "y"),
    ]
    made = model(nodes, {"w": np.ones((1, 2), np.float32)}, (1, 2))
    assert activations(made.graph) == ["x", "a", "shape", "y"]


def with_branch() -> onnx.ModelProto:
    """y = If(c) then relu(a) + w else a, where a = x + w: the bodies read names from outside."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [node("Relu", ["a"], "r"), node("Add", ["r", "w"], "t")],
        "then",
        [],
        [value("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph([node("Identity", ["a"], "e")], "else", [], [value("e", TensorProto.FLOAT, None)])
    nodes = [
        node("Add", ["x", "v"], "a"),
        node("ReduceMax", ["x"], "max", keepdims=0),
        node("Greater", ["max", "zero"], "c"),
        node("If", ["c"], "y", then_branch=then, else_branch=other),
    ]
    weights = {"w": np.ones(2, np.float32), "v": np.ones(2, np.float32), "zero": np.float32(0)}
    return model(nodes, weights, (1, 2))


def test_what_branches_read_counts_as_read():
    made = with_branch()
    found = index(made.graph)
    assert {"a", "w"} <= found.inner
    assert found.only_reader("a") is None
    assert found.only_reader("max").op_type == "Greater"
    made.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unread"))
    drop_unread_initializers(made.graph)
    assert {t.name for t in made.graph.initializer} == {"w", "v", "zero"}


def test_fresh_names_are_nobody_elses():
    names = Names(with_branch().graph)
    assert [names.fresh("r"), names.fresh("new"), names.fresh("new")] == ["r_1", "new", "new_1"]
    assert names.fresh("If_y") == "If_y_1"


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256))])
def test_files_that_are_not_models(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"m\.onnx: .*export the model"):
        load_model(tmp_path / "m.onnx")
    with pytest.raises(CalibrationError, match="no such model"):
        load_model(tmp_path / "none.onnx")
