"""`edgesmith quantize` as a user runs it: any float ONNX file, any data it takes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_nets import model, node, resnet, run, samples, sqnr_db
from conftest import one_line, run_cli
from onnx import TensorProto
from quantize_nets import stateful, two_inputs

EVAL = """
import numpy as np

def metric(run):
    with np.load("labelled.npz") as file:
        x, labels = file["x"], file["labels"]
    return 100 * float((run({"x": x})["y"].argmax(1) == labels).mean())

def fraction(run):
    return metric(run) / 100

def broken(run):
    return float("nan")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A residual network with a dynamic batch, samples for it, and labels that the float model gets right."""
    made = resnet(batch="N", width=32)
    onnx.save(made, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=samples(40))
    x = samples(60, seed=8)
    np.savez(tmp_path / "labelled.npz", x=x, labels=run(made, x).argmax(1))
    (tmp_path / "eval.py").write_text(EVAL)
    return tmp_path


def quantized(folder: Path, *args: object, code: int = 0) -> dict:
    done = run_cli("quantize", *args, cwd=folder)
    assert done.returncode == code, done.stderr
    out = folder / (args[args.index("--out") + 1] if "--out" in args else f"{Path(str(args[0])).stem}_int8.onnx")
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["coverage"]["text"] in done.stdout
    assert out.is_file() == report["written"]
    if report["written"]:
        onnx.checker.check_model(str(out), full_check=report["method"] != "dynamic")
    return report


@pytest.mark.parametrize("target", ["cpu", "mobile"])
def test_a_model_and_its_report(folder: Path, target: str) -> None:
    report = quantized(folder, "net.onnx", "--data", "data.npz", "--samples", 16, "--target", target)
    assert (report["samples"], report["evaluated_samples"], report["held_out"]) == (16, 16, True)
    assert report["coverage"]["int8"] == report["coverage"]["ops"] == {"Conv": 6, "Gemm": 1}
    assert report["coverage"]["ran"]
    assert report["int8"]["kernels"] == {"i8": 7}
    assert report["float"]["kernels"] == {"f32": 7}
    assert report["int8"]["size_bytes"] < report["float"]["size_bytes"]
    assert report["ratio"]["low"] <= report["ratio"]["value"] <= report["ratio"]["high"]
    assert report["verdict"]["kind"] in ("pays", "same", "slower")
    assert report["int8"]["latency"]["samples"]
    assert report["proxy"] == (target == "mobile")
    made, exact = onnx.load(folder / "net_int8.onnx"), onnx.load(folder / "net.onnx")
    x = samples(8, seed=5)
    assert sqnr_db(run(exact, x), run(made, x)) > 25
    assert report["outputs"]["y"]["sqnr_db"] == pytest.approx(sqnr_db(run(exact, x), run(made, x)), abs=3)
    assert made.graph.input == exact.graph.input
    assert made.graph.output == exact.graph.output


@pytest.mark.parametrize("target", ["gpu", "jetson"])
def test_without_a_device_the_file_is_made_and_nothing_is_timed(folder: Path, target: str) -> None:
    report = quantized(folder, "net.onnx", "--data", "data.npz", "--target", target, "--device", "none")
    assert report["ratio"] is report["int8"]["latency"] is report["device"] is None
    assert report["verdict"]["kind"] == "unmeasured"
    assert not report["held_out"]
    assert not report["coverage"]["ran"]
    assert report["outputs"]["y"]["sqnr_db"] > 25


def test_a_floor_is_held_by_leaving_layers_in_float(folder: Path) -> None:
    args = ("net.onnx", "--data", "data.npz", "--samples", 16, "--min-sqnr", 46, "--device", "none")
    report = quantized(folder, *args)
    accuracy = report["accuracy"]
    assert accuracy["int8"] >= accuracy["floor"] == 46
    assert 1 < accuracy["evaluations"] <= 40
    assert 0 < len(report["kept_float"]) < 9
    assert set(report["kept_float"].values()) == {
        "left in float by accuracy control, for the floor on SQNR in dB",
    }
    done = run_cli("quantize", *args[:6], 500, "--device", "none", "--out", "never.onnx", cwd=folder)
    assert done.returncode == 2
    assert "only with every layer in float" in one_line(done.stderr)
    assert not list(folder.glob("never*"))


def test_sensitivity_is_measured_and_drawn(folder: Path) -> None:
    quantized(folder, "net.onnx", "--data", "data.npz", "--samples", 4, "--device", "none", "--sensitivity")
    told = json.loads((folder / "net_int8.sensitivity.json").read_text())
    assert {row["layer"]["ops"][0] for row in told["layers"]} >= {"Conv_stem", "Conv_b2", "Gemm_y"}
    assert "Conv_stem" in (folder / "net_int8.sensitivity.svg").read_text()


@pytest.mark.parametrize("target", ["cpu", "mobile"])
def test_weights_alone(folder: Path, target: str) -> None:
    common = ("net.onnx", "--data", "data.npz", "--target", target, "--method", "weights", "--exclude", "Conv_stem")
    report = quantized(folder, *common, "--out", "small.onnx")
    # OpenVINO quantizes what a matrix product with int8 weights reads, as it comes
    assert report["int8"]["kernels"] == ({"f32": 6, "i8": 1} if target == "cpu" else {"f32": 7})
    assert report["outputs"]["y"]["sqnr_db"] > 30
    assert report["int8"]["onnx_bytes"] < 0.5 * report["float"]["onnx_bytes"]
    assert report["kept_float"]["Conv_stem"] == "left in float by request"
    assert (report["weights"]["bias"], report["weights"]["samples"], report["observer"]) == ("empirical", 40, None)
    made = onnx.load(folder / "small.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in made.graph.node}
    assert ort.InferenceSession(made.SerializeToString()).get_inputs()[0].name == "x"


def test_float16(folder: Path) -> None:
    report = quantized(
        folder, "net.onnx", "--data", "data.npz", "--method", "f16", "--exclude", "Conv_stem", "--out", "half.onnx"
    )
    assert report["coverage"]["int8"] == {}
    assert 40 < report["outputs"]["y"]["sqnr_db"] < 90
    assert report["float"]["kernels"] == {"f32": 7}
    made = onnx.load(folder / "half.onnx")
    types = {t.name: t.data_type for t in made.graph.initializer}
    assert (types["stem.w"], types["a1.w"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_metric_of_the_users_own_and_agreement(folder: Path) -> None:
    common = ("net.onnx", "--data", "data.npz", "--samples", 16, "--device", "none")
    report = quantized(folder, *common, "--metric", "eval.py:metric", "--max-drop", 10)
    assert (report["accuracy"]["float"], report["accuracy"]["floor"]) == (100.0, 90.0)
    assert report["accuracy"]["int8"] >= 90
    report = quantized(folder, *common, "--metric", "agreement")
    assert report["accuracy"]["floor"] is None
    assert report["accuracy"]["int8"] == pytest.approx(100 * report["outputs"]["y"]["agreement"])


def test_excluded_nodes_stay_in_float_and_are_named(folder: Path) -> None:
    report = quantized(
        folder, "net.onnx", "--data", "data.npz", "--samples", 8, "--exclude", "Conv_stem", "--target", "cpu"
    )
    assert report["coverage"]["floats"] == {"Conv_stem": "left in float by request"}
    assert report["int8"]["kernels"] == {"f32": 1, "i8": 6}


@pytest.mark.parametrize("target", ["cpu", "mobile"])
def test_several_inputs_and_outputs_and_a_static_batch(tmp_path: Path, target: str) -> None:
    onnx.save(two_inputs(), tmp_path / "two.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", image=rng.normal(size=(21, 3, 8, 8)), which=np.arange(21, dtype=np.int32) % 5)
    report = quantized(tmp_path, "two.onnx", "--data", "d.npz", "--samples", 9, "--target", target)
    assert (report["samples"], report["evaluated_samples"]) == (8, 8)  # whole calls of 2
    assert set(report["outputs"]) == {"scores", "features"}
    assert report["coverage"]["ops"] == {"Conv": 1, "MatMul": 1}
    assert report["int8"]["kernels"]["i8"] == 2


@pytest.mark.parametrize("options", [[], ["--method", "dynamic"]], ids=["static", "dynamic"])
def test_a_model_with_state_takes_one_call_per_file(tmp_path: Path, options: list[str]) -> None:
    onnx.save(stateful(), tmp_path / "speech.onnx")
    (tmp_path / "calls").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        x, state = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 16), (2, 1, 4)))
        np.savez(tmp_path / "calls" / f"{i}.npz", x=x, state=state, rate=np.int64(2))
    report = quantized(
        tmp_path, "speech.onnx", "--data", "calls", "--target", "mobile", "--observer", "minmax", *options
    )
    assert report["outputs"]["next"]["sqnr_db"] is None  # it is passed on as it is
    assert report["outputs"]["y"]["sqnr_db"] > 20
    assert report["method"] == ("dynamic" if options else "static")
    assert report["coverage"]["int8"] == {"MatMul": 1}


@pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="needs the extra images: Pillow")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_folder_of_images(tmp_path: Path, layout: str) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)}
    shape = ("N", 3, 12, 16) if layout == "NCHW" else ("N", 12, 16, 3)
    nodes = [node("Conv", ["x" if layout == "NCHW" else "t", "w"], "y")]
    if layout == "NHWC":
        nodes.insert(0, node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]))
    onnx.save(model(nodes, weights, shape), tmp_path / "net.onnx")
    (tmp_path / "photos").mkdir()
    for i in range(4):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).convert("L" if i == 3 else "RGB").save(tmp_path / "photos" / f"{i}.png")
    common = ("net.onnx", "--data", "photos", "--mean", "0.5,0.4,0.3", "--std", "0.25", "--device", "none")
    report = quantized(tmp_path, *common)
    assert report["samples"] == 4
    assert report["outputs"]["y"]["sqnr_db"] > 20
    (tmp_path / "photos" / "4.png").write_bytes(b"no image")
    assert "4.png: not a readable image" in failing(tmp_path, *common)
    assert "--size" in failing(tmp_path, *common, "--size", "64")


def failing(folder: Path, *args: object) -> str:
    done = run_cli("quantize", *args, cwd=folder)
    assert done.returncode == 2, done.stdout
    return one_line(done.stderr)


def test_what_cannot_be_quantized_is_one_line(folder: Path) -> None:
    quantized(folder, "net.onnx", "--data", "data.npz", "--device", "none")
    data = ("--data", "data.npz", "--device", "none")
    assert "is quantized already, it has DequantizeLinear" in failing(folder, "net_int8.onnx", *data)
    half = model([node("Relu", ["x"], "y")], {}, (1, 3, 16, 16))
    half.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    half.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(half, folder / "half.onnx")
    assert "input 'x' is float16; int8 starts from float32" in failing(folder, "half.onnx", *data)
    onnx.save(model([node("Relu", ["x"], "y")], {}, ("N", 3, 16, 16)), folder / "relu.onnx")
    assert "would run no op of it in int8; ship it in float" in failing(folder, "relu.onnx", *data)
    assert "no such model" in failing(folder, "none.onnx", *data)
    assert "not an ONNX file" in failing(folder, "data.npz", *data)


def test_data_that_does_not_fit_is_one_line(folder: Path) -> None:
    bad = samples(4)
    bad[2, 1, 5, 5] = np.nan
    np.save(folder / "nan.npy", bad)
    np.save(folder / "shape.npy", samples(4)[..., :8])
    np.savez(folder / "names.npz", a=samples(2), b=samples(2))
    (folder / "empty").mkdir()
    end = ("--device", "none")
    assert "'x' is NaN or infinite at calibration sample 2" in failing(folder, "net.onnx", "--data", "nan.npy", *end)
    line = failing(folder, "net.onnx", "--data", "shape.npy", *end)
    assert "float32 of shape (4, 3, 16, 8) for input x: float32 (?, 3, 16, 16)" in line
    line = failing(folder, "net.onnx", "--data", "names.npz", *end)
    assert "has the arrays a, b; the model also takes x" in line
    assert "has no .npy, .npz or image files" in failing(folder, "net.onnx", "--data", "empty", *end)
    assert "no such file or folder" in failing(folder, "net.onnx", "--data", "nowhere", *end)
    assert not (folder / "net_int8.onnx").exists()


def test_options_that_make_no_sense_are_one_line(folder: Path) -> None:
    start = ("net.onnx", "--data", "data.npz", "--device", "none")
    for args, says in (
        (["--max-drop", 1], "of which metric?"),
        (["--metric", "eval.py:metric", "--min-sqnr", 20], "two floors"),
        (["--metric", "eval.py:fraction", "--max-drop", 1], "0.01 is a point, if 1 is perfect"),
        (["--metric", "eval.py:broken"], "returned nan; return a finite number"),
        (["--metric", "eval.py:nothing"], "eval.py has no 'nothing'"),
        (["--exclude", "Conv_nine"], "no op of the model is named 'Conv_nine'"),
        (["--method", "dynamic"], "use --target mobile"),
        (["--method", "f16", "--min-sqnr", 20], "--method f16 is all or nothing"),
        (["--out", "net.onnx"], "name another .onnx file"),
        (["--observer", "median"], "no observer named 'median'"),
        (["--target", "cqu"], "did you mean cpu"),
    ):
        assert says in failing(folder, *start, *args)


def test_the_result_opens_in_a_plain_onnxruntime_session(folder: Path) -> None:
    quantized(folder, "net.onnx", "--data", "data.npz", "--target", "mobile", "--device", "none", "--out", "q.onnx")
    session = ort.InferenceSession(folder / "q.onnx", providers=["CPUExecutionProvider"])
    x = samples(8, seed=5)
    assert sqnr_db(run(onnx.load(folder / "net.onnx"), x), session.run(None, {"x": x})[0]) > 25
