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
    index,
    load_model,
    pool_spatial_means,
)


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


@pytest.mark.parametrize("op", ["ReduceMean", "GlobalAveragePool"])
def test_means_over_one_position_go(op):
    given = {"axes": [2, 3]} if op == "ReduceMean" else {}
    nodes = [
        node("Relu", ["x"], "r"),
        node(op, ["r"], "m", **given),
        node(op, ["m"], "n", **given),
        node("Neg", ["n"], "y"),
    ]
    made = model(nodes, {}, (1, 3, 1, 1))
    pooled = pool_spatial_means(made)
    onnx.checker.check_model(pooled, full_check=True)
    assert [n.op_type for n in pooled.graph.node] == ["Relu", "Neg"]
    np.testing.assert_array_equal(run(pooled, samples(2, (3, 1, 1))), run(made, samples(2, (3, 1, 1))))
    last = model(nodes[:2], {}, (1, 3, 1, 1), outputs=["m"])
    assert [n.op_type for n in pool_spatial_means(last).graph.node] == ["Relu", "GlobalAveragePool"]


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
