import numpy as np
import onnx
import pytest
from calibration_nets import SCHEMES, model, node, resnet, run, samples, saved, single_conv
from onnx import TensorProto, helper

from calibration.collect import collect, quantizable
from calibration.errors import CalibrationError
from calibration.graph import activations
from calibration.observers import make, names
from calibration.observers.minmax import Minmax
from calibration.observers.percentile import Percentile
from calibration.placement import place


def batches(x: np.ndarray, size: int):
    return ({"x": x[i : i + size]} for i in range(0, len(x), size))


def test_every_float_activation_has_the_range_of_a_plain_run(tmp_path):
    made = resnet()
    x = samples(5)
    ranges = collect(saved(made, tmp_path), batches(x, 2), Minmax())
    assert list(ranges.tensors) == activations(made.graph)
    assert (ranges.samples, ranges.observer, ranges.options) == (5, "minmax", {})
    ranges.require(made)
    for name, found in ranges.tensors.items():
        values = x if name == "x" else run(made, x, fetch=name)
        expected = (float(values.min()), float(values.max()))
        assert (found.minimum, found.maximum) == pytest.approx(expected, rel=1e-5)
        assert (found.low, found.high) == (found.minimum, found.maximum)


def test_percentile_ranges_equal_numpys_over_all_values(tmp_path):
    made = single_conv(activation="Tanh")
    x = samples(40, (3, 8, 8))
    ranges = collect(saved(made, tmp_path), batches(x, 8), Percentile(99.0))
    for name in ("c", "y"):
        expected = np.percentile(run(made, x, fetch=name), [1, 99])
        found = ranges.tensors[name]
        assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1 / 128)
        assert found.minimum < found.low < found.high < found.maximum


@pytest.mark.parametrize("name", [name for name in names() if not make(name).ordered])
@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_batching_and_order_do_not_show(tmp_path, name, batch):
    path = saved(resnet(batch=batch), tmp_path)
    x = samples(8)
    whole = collect(path, batches(x, 8), make(name))
    parts = collect(path, batches(x[::-1], 4), make(name))
    assert whole.samples == parts.samples == 8
    for tensor, found in whole.tensors.items():
        # the runtime may sum in another order in another batch, so the last bits may differ
        assert parts.tensors[tensor].high == pytest.approx(found.high, rel=1e-3)
        assert parts.tensors[tensor].low == pytest.approx(found.low, rel=1e-3)


def test_progress_is_told_samples_per_batch(tmp_path):
    told: list[int] = []
    collect(saved(single_conv(), tmp_path), batches(samples(5, (3, 8, 8)), 2), Minmax(), on_batch=told.append)
    assert told == [2, 2, 1]


def test_batches_are_taken_one_at_a_time(tmp_path):
    done: list[int] = []

    def stream():
        for i in range(3):
            assert len(done) == i
            yield {"x": samples(2, (3, 8, 8), seed=i)}

    collect(saved(single_conv(), tmp_path), stream(), Minmax(), on_batch=done.append)
    assert len(done) == 3


def test_no_more_is_taken_from_the_data_than_is_in_flight(tmp_path):
    running: list[int] = []
    most = 0

    def stream():
        for i in range(12):
            running.append(i)
            yield {"x": samples(1, (3, 8, 8), seed=i)}

    def finished(n):
        nonlocal most
        most = max(most, len(running))
        running.clear()

    collect(saved(single_conv(), tmp_path), stream(), Minmax(), on_batch=finished, threads=4)
    assert most == 1


def test_a_caller_may_fill_its_array_anew(tmp_path):
    path = saved(single_conv(), tmp_path)
    x = samples(40, (3, 8, 8))
    buffer = np.empty((1, 3, 8, 8), np.float32)

    def reused():
        for sample in x:
            buffer[0] = sample
            yield {"x": buffer}

    assert collect(path, reused(), Percentile(), threads=4) == collect(path, batches(x, 40), Percentile())


@pytest.mark.parametrize("name", names())
def test_threads_do_not_show(tmp_path, name):
    path = saved(resnet(), tmp_path)
    one, many = (collect(path, batches(samples(12), 1), make(name), threads=n) for n in (1, 4))
    assert one == many


def test_only_what_is_asked_for_is_observed(tmp_path):
    made = resnet()
    path = saved(made, tmp_path)
    whole = collect(path, batches(samples(2), 2), Minmax())
    only = collect(path, batches(samples(2), 2), Minmax(), only=["x", "a.relu", "mean"])
    assert list(only.tensors) == ["x", "a.relu", "mean"]
    for name, found in only.tensors.items():
        expected = whole.tensors[name]
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)
    with pytest.raises(CalibrationError, match=r"no activation is called 'a\.w', 'nothing'"):
        collect(path, batches(samples(2), 2), Minmax(), only=["x", "nothing", "a.w"])


def test_only_may_name_integers_which_are_left_out(tmp_path):
    made = model([node("ArgMax", ["x"], "i", axis=1), node("Cast", ["i"], "y", to=1)], {}, (1, 4))
    found = collect(saved(made, tmp_path), [{"x": samples(3, (4,))}], Minmax(), only=["x", "i", "y"])
    assert list(found.tensors) == ["x", "y"]


@pytest.mark.parametrize("left", ["Conv_a2", "Conv_short", "Conv_b2", "Add_b.add", "Gemm_y"])
@SCHEMES
def test_what_a_scheme_quantizes_is_observed_whatever_stays_in_float(tmp_path, scheme, left):
    made = resnet()
    wanted = quantizable(made, scheme)
    assert set(wanted) < set(quantizable(made))
    ranges = collect(saved(made, tmp_path), batches(samples(2), 2), Minmax(), only=wanted)
    assert place(made, ranges, scheme, exclude=[left]).quantized


@SCHEMES
def test_what_is_quantizable_is_all_that_placement_asks_for(tmp_path, scheme):
    made = resnet()
    wanted = quantizable(made)
    assert "stem" not in wanted
    assert "stem.relu" in wanted
    ranges = collect(saved(made, tmp_path), batches(samples(2), 2), Minmax(), only=wanted)
    whole = collect(saved(made, tmp_path), batches(samples(2), 2), Minmax())
    placed = place(made, ranges, scheme)
    assert placed.quantized == place(made, whole, scheme).quantized
    assert len(placed.quantized) > 5


def test_the_earliest_wrong_sample_is_the_one_named(tmp_path):
    x = samples(30, (3, 8, 8))
    x[[7, 9, 20], 0, 0, 0] = np.inf
    for _ in range(3):
        with pytest.raises(CalibrationError, match=r"tensor 'x' is NaN or infinite at calibration sample 7 "):
            collect(saved(single_conv(), tmp_path), batches(x, 1), Minmax(), threads=4)


@pytest.mark.parametrize("name", names())
def test_dead_constant_and_empty_tensors(tmp_path, name):
    weights = {
        "minus": np.asarray(-1e9, np.float32),
        "zero": np.asarray(0, np.float32),
        "three": np.asarray(3, np.float32),
    }
    nodes = [
        node("Add", ["x", "minus"], "down"),
        node("Relu", ["down"], "dead"),
        node("Mul", ["x", "zero"], "zeros"),
        node("Add", ["zeros", "three"], "constant"),
        node("Greater", ["x", "three"], "mask"),
        node("Compress", ["x", "mask1"], "some"),
        node("Concat", ["dead", "constant"], "y", axis=1),
    ]
    weights["flat"] = np.asarray([-1])
    nodes.insert(5, node("Reshape", ["mask", "flat"], "mask1"))
    made = model(nodes, weights, ("N", 4), outputs=("y",))
    x = samples(6, (4,)).clip(-2, 2)
    none = collect(saved(made, tmp_path), batches(x, 2), make(name))
    assert "some" not in none.tensors
    x[3, 2] = 5
    found = collect(saved(made, tmp_path), batches(x, 2), make(name)).tensors
    assert (found["some"].minimum, found["some"].maximum, found["some"].high) == (5, 5, 5)
    assert (found["dead"].low, found["dead"].high) == (0, 0)
    assert (found["constant"].low, found["constant"].high) == (3, 3)


def test_data_that_is_not_finite_names_tensor_and_sample(tmp_path):
    x = samples(6, (3, 8, 8))
    x[4, 1, 2, 3] = np.nan
    with pytest.raises(CalibrationError, match=r"tensor 'x' is NaN or infinite at calibration sample 4 "):
        collect(saved(single_conv(batch="N"), tmp_path), batches(x, 3), Minmax())


def test_the_first_activation_that_overflows_is_the_one_named(tmp_path):
    nodes = [node("Exp", ["x"], "big"), node("Sub", ["big", "big"], "y")]
    x = np.ones((6, 2), np.float32)
    x[5] = 1000
    with pytest.raises(CalibrationError, match=r"tensor 'big' is NaN or infinite at calibration sample 5 "):
        collect(saved(model(nodes, {}, ("N", 2)), tmp_path), batches(x, 4), Minmax())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, r"lacks input 'x'; the model takes x: float \(2, 3, 8, 8\)"),
        ({"x": samples(2, (3, 8, 8)), "mask": np.ones(2)}, "has unknown input 'mask'"),
        ({"x": samples(2, (3, 8, 9))}, r"input 'x' is float32 \(2, 3, 8, 9\) in the data; the model takes"),
        ({"x": samples(2, (3, 64))}, r"input 'x' is float32 \(2, 3, 64\)"),
        ({"x": samples(2, (3, 8, 8)).astype(np.float64)}, "input 'x' is float64"),
        ({"x": samples(3, (3, 8, 8))}, "has 3 samples, the model takes 2 at once: give a multiple of 2"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path, batch, message):
    with pytest.raises(CalibrationError, match=message):
        collect(saved(single_conv(batch=2), tmp_path), [batch], Minmax())


@pytest.mark.parametrize("data", [[], [{"x": samples(0, (3, 8, 8))}]])
@pytest.mark.parametrize("batch", [1, "N"])
def test_no_data(tmp_path, data, batch):
    with pytest.raises(CalibrationError, match="has no samples"):
        collect(saved(single_conv(batch=batch), tmp_path), data, Minmax())


def test_a_model_that_onnxruntime_refuses(tmp_path):
    made = single_conv()
    made.graph.node[0].op_type = "Convolute"
    with pytest.raises(CalibrationError, match=r"onnxruntime cannot load it: .*Convolute") as caught:
        collect(saved(made, tmp_path), [{"x": samples(1, (3, 8, 8))}], Minmax())
    assert "\n" not in str(caught.value)


def test_a_run_that_onnxruntime_refuses(tmp_path):
    made = model([node("Reshape", ["x", "shape"], "y")], {"shape": np.asarray([2, 5])}, ("N", "C"))
    with pytest.raises(CalibrationError, match="calibration sample 1: onnxruntime cannot run it"):
        collect(saved(made, tmp_path), [{"x": samples(1, (10,))}, {"x": samples(1, (9,))}], Minmax())


def test_integer_inputs_and_tensors_are_left_alone(tmp_path):
    graph = helper.make_graph(
        [
            node("Gather", ["table", "ids"], "rows"),
            node("Add", ["rows", "x"], "y"),
            node("Shape", ["y"], "n"),
        ],
        "net",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "table")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    feeds = {"ids": np.asarray([1, 3]), "x": samples(2, (4,))}
    assert list(collect(saved(made, tmp_path), [feeds], Minmax()).tensors) == ["x", "rows", "y"]


def test_external_weights(tmp_path):
    made = resnet()
    expected = collect(saved(made, tmp_path), [{"x": samples(2)}], Minmax())
    path = tmp_path / "deep" / "external.onnx"
    path.parent.mkdir()
    onnx.save(made, path, save_as_external_data=True, location="external.data", size_threshold=0)
    assert (path.parent / "external.data").exists()
    assert collect(path, [{"x": samples(2)}], Minmax()) == expected


def test_a_model_without_float32(tmp_path):
    made = model([node("Cast", ["x"], "y", to=TensorProto.INT64)], {}, (1, 2), outputs=())
    made.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64, [1, 2]))
    with pytest.raises(CalibrationError, match="no float32 activation"):
        collect(saved(made, tmp_path), [{"x": samples(1, (2,))}], Minmax())
