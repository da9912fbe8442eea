"""Contract of every target found in targets/backends: build, ship, open, run, count kernels."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, save

from targets import plugins
from targets.backends import _cuda, _tensorrt
from targets.backends.cpu import Cpu
from targets.backends.gpu import Gpu
from targets.backends.jetson import Jetson
from targets.backends.mobile import Mobile
from targets.base import NoDeviceError, Target, TargetError
from targets.devices.base import Fingerprint
from targets.fingerprint import fingerprint

NAMES = plugins.names("targets.backends")
HERE = ("cpu", "mobile")
RTX_MISSING = "needs the [rtx] extra: TensorRT for RTX is not installed"
rtx = pytest.mark.skipif(not _tensorrt.installed(*_tensorrt.RTX), reason=RTX_MISSING)
no_gpu = pytest.mark.skipif(bool(_cuda.gpus()), reason="asserts what happens without an NVIDIA GPU")


class _Graph:
    """A two-convolution residual network in float, or with Q/DQ as TensorRT wants it: symmetric int8."""

    def __init__(self, quantized: bool) -> None:
        self.quantized, self.nodes, self.tensors = quantized, [], []  # type: bool, list[Any], list[Any]
        self.random = np.random.default_rng(0)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def pair(self, x: str, scale: float) -> str:
        if not self.quantized:
            return x
        s = self.constant(f"{x}_scale", np.array(scale, np.float32))
        zero = self.constant(f"{x}_zero", np.zeros((), np.int8))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, zero), s, zero)

    def weight(self, name: str, *shape: int) -> str:
        values = self.random.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        if not self.quantized:
            return self.constant(name, values.astype(np.float32))
        scale = np.abs(values).reshape(shape[0], -1).max(1) / 127
        rounded = np.rint(values / scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
        inputs = (
            self.constant(name, rounded),
            self.constant(f"{name}_scale", scale.astype(np.float32)),
            self.constant(f"{name}_zero", np.zeros(shape[0], np.int8)),
        )
        return self.node("DequantizeLinear", *inputs, axis=0)


def model(path: Path, *, quantized: bool = False, batch: int | str = 2) -> Path:
    g = _Graph(quantized)
    x = g.pair("x", 0.03)
    bias = g.constant("bias", np.full(16, 0.1, np.float32))
    y = g.pair(g.node("Relu", g.node("Conv", x, g.weight("w1", 16, 3, 3, 3), bias, pads=[1] * 4)), 0.02)
    z = g.pair(g.node("Conv", y, g.weight("w2", 16, 16, 3, 3), pads=[1] * 4), 0.02)
    pooled = g.node("GlobalAveragePool", g.pair(g.node("Relu", g.node("Add", z, y)), 0.03))
    flat = g.pair(g.node("Flatten", pooled), 0.01)
    last = g.node("Gemm", flat, g.weight("w3", 32, 16), transB=1)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [batch, 3, 8, 8]), (last, [batch, 32]))
    ]
    graph = helper.make_graph(g.nodes, "tiny", [ends[0]], [ends[1]], g.tensors)
    made: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    save(made, str(path))
    return path


def reference(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def sample(n: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((n, 3, 8, 8)).astype(np.float32)


def target(name: str) -> Target:
    made = plugins.make(name, {})
    if name == "gpu" and not _tensorrt.installed("tensorrt", *_tensorrt.RTX):
        pytest.skip(RTX_MISSING)
    return made


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_named_by_its_file_and_survives_its_own_description(name: str) -> None:
    made = plugins.make(name, {})
    assert made.name() == name
    described = json.loads(json.dumps(plugins.spec(made)))
    assert plugins.from_spec(described["target"], described["options"]) == made


@pytest.mark.parametrize("name", NAMES)
def test_its_scheme_and_alignment_are_usable(name: str) -> None:
    made = plugins.make(name, {})
    assert made.scheme.activation in ("uint8", "int8")
    assert made.align >= 1
    assert made.align & (made.align - 1) == 0


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_build_writes_what_it_ships_and_what_it_ships_computes_the_model(
    name: str, quantized: bool, tmp_path: Path
) -> None:
    made, onnx, out = target(name), model(tmp_path / "m.onnx", quantized=quantized), folder(tmp_path / "out")
    made.build(onnx, out)
    shipped = made.shipped(out)
    assert shipped
    assert all(file.is_file() and file.stat().st_size and out in file.parents for file in shipped)
    why_not = made.runs_here()
    if why_not is not None:
        with pytest.raises(NoDeviceError, match="no device") as raised, made.open(out):
            pass
        assert "\n" not in str(raised.value)
        return
    with made.open(out) as run:
        assert run.inputs == {"x": (2, 3, 8, 8)}
        (output,) = run({"x": sample()}).values()
        precision = run.precision()
    # int8 kernels round half a step apart from the reference's; a step of the last activation is 0.01
    np.testing.assert_allclose(output, reference(onnx, sample()), atol=0.02 if quantized else 1e-5)
    assert sum(precision.values()) == 3
    assert precision.get("i8", 0) >= (2 if quantized else 0)
    assert quantized or precision == {"f32": 3}


@pytest.mark.parametrize("name", HERE)
def test_a_dynamic_batch_runs_at_any_size(name: str, tmp_path: Path) -> None:
    made, onnx, out = target(name), model(tmp_path / "m.onnx", batch="n"), folder(tmp_path / "out")
    made.build(onnx, out)
    with made.open(out) as run:
        assert run.inputs == {"x": (-1, 3, 8, 8)}
        for n in (1, 5):
            (output,) = run({"x": sample(n)}).values()
            np.testing.assert_allclose(output, reference(onnx, sample(n)), atol=1e-5)


@pytest.mark.parametrize("name", HERE)
def test_results_are_not_overwritten_by_the_next_call(name: str, tmp_path: Path) -> None:
    made, onnx, out = target(name), model(tmp_path / "m.onnx"), folder(tmp_path / "out")
    made.build(onnx, out)
    with made.open(out) as run:
        (first,) = run({"x": sample()}).values()
        kept = first.copy()
        run({"x": -sample()})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_no_model_is_one_line(name: str, tmp_path: Path) -> None:
    made, out = target(name), folder(tmp_path / "out")
    if name == "jetson" and not made.versions():
        pytest.skip("nothing installed that could parse")
    (tmp_path / "bad.onnx").write_bytes(b"not a model at all")
    with pytest.raises(TargetError, match=r"bad\.onnx") as raised:
        made.build(tmp_path / "bad.onnx", out)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cpu", {"precision": "int4"}, "f32, bf16, f16, auto"),
        ("cpu", {"threads": 0}, "1 or more"),
        ("cpu", {"speed": 9}, "no option 'speed'; have: threads, precision"),
        ("mobile", {"threads": -1}, "1 or more"),
        ("mobile", {"platform": "riscv"}, "arm or amd64"),
        ("gpu", {"capabilities": []}, "is empty"),
        ("gpu", {"max_batch": 0}, "1 or more"),
        ("gpq", {}, "did you mean gpu"),
    ],
)
def test_impossible_options_say_what_is_possible(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(TargetError, match=says):
        plugins.make(name, options)


@pytest.mark.parametrize("path", ["os:system", "targets.backends.cpu:ov", "targets.agent:main", "", "cpu"])
def test_only_installed_targets_can_be_named(path: str) -> None:
    with pytest.raises(TargetError, match="not a target installed here"):
        plugins.from_spec(path, {})


def test_f32_is_pinned_where_the_cpu_would_take_bf16_by_itself(tmp_path: Path) -> None:
    onnx = model(tmp_path / "m.onnx")
    wanted = {"f32": "f32"}
    if "avx512_bf16" in fingerprint(Cpu()).features:
        wanted |= {"bf16": "bf16", "auto": "bf16"}
    for precision, runs in wanted.items():
        out = folder(tmp_path / precision)
        Cpu(precision=precision).build(onnx, out)
        with Cpu(precision=precision).open(out) as run:
            assert run.precision() == {runs: 3}


def test_only_f16_halves_the_weights(tmp_path: Path) -> None:
    onnx, sizes = model(tmp_path / "m.onnx"), {}
    for precision in ("f32", "f16"):
        out = folder(tmp_path / precision)
        Cpu(precision=precision).build(onnx, out)
        sizes[precision] = (out / "model.bin").stat().st_size
    assert sizes["f16"] < 0.6 * sizes["f32"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "another cpu", "no json", "missing", "none"])
def test_a_compiled_model_for_another_machine_or_damaged_is_ignored(damage: str, tmp_path: Path) -> None:
    onnx, out = model(tmp_path / "m.onnx"), folder(tmp_path / "out")
    Cpu().build(onnx, out)
    blob, note = out / "model.blob", out / "model.blob.json"
    if damage == "cut":
        blob.write_bytes(blob.read_bytes()[:-100])
    elif damage == "garbage":
        blob.write_bytes(b"\0" * 5000)
    elif damage == "another cpu":
        note.write_text(json.dumps({**json.loads(note.read_text()), "cpu": "Another"}))
        blob.write_bytes(b"would crash")
    elif damage == "no json":
        note.write_text("{")
    elif damage == "missing":
        blob.unlink()
    with Cpu().open(out) as run:
        (output,) = run({"x": sample()}).values()
    np.testing.assert_allclose(output, reference(onnx, sample()), atol=1e-5)


def test_the_compiled_model_is_what_opens_where_it_fits(tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Cpu().build(model(tmp_path / "m.onnx"), out)
    (out / "model.xml").unlink()
    with Cpu().open(out) as run:
        assert run.precision() == {"f32": 3}


def test_mobile_writes_operators_and_verdict_without_paths(tmp_path: Path) -> None:
    onnx = model(tmp_path / "m.onnx", quantized=True)
    first, second = folder(tmp_path / "a"), folder(tmp_path / "b")
    for out in (first, second):
        Mobile().build(onnx, out)
    operators = (first / "required_operators.config").read_text()
    assert "QLinearConv" in operators
    verdicts = json.loads((first / "usability.json").read_text())["verdicts"]
    assert set(verdicts) == {"NNAPI", "CoreML NeuralNetwork", "CoreML MLProgram"}
    assert set(verdicts.values()) <= {"YES", "MAYBE", "NO"}
    for name in ("required_operators.config", "usability.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert str(tmp_path).encode() not in (first / name).read_bytes()


def test_building_for_mobile_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Mobile().build(model(tmp_path / "m.onnx"), folder(tmp_path / "out"))
    assert capfd.readouterr() == ("", "")


def device(machine: str, accelerator: str = "") -> Fingerprint:
    return Fingerprint(machine, "cpu", 1, (), "unknown", "Linux", "3.10", {}, accelerator)


@pytest.mark.parametrize(
    ("made", "machine", "accelerator", "native"),
    [
        (Cpu(), "x86_64", "", True),
        (Mobile(), "x86_64", "", False),
        (Mobile(), "aarch64", "", True),
        (Mobile(platform="amd64"), "x86_64", "", True),
        (Gpu(), "x86_64", "", False),
        (Gpu(), "x86_64", "NVIDIA RTX A2000 (compute capability 8.6)", True),
        (Jetson(), "aarch64", "NVIDIA Tegra: Jetson Orin Nano", True),
        (Jetson(), "aarch64", "", False),
        (Jetson(), "x86_64", "NVIDIA RTX A2000 (compute capability 8.6)", False),
    ],
)
def test_a_latency_is_native_only_on_the_kind_of_device_it_ships_to(
    made: Target, machine: str, accelerator: str, native: bool
) -> None:
    assert made.is_native(device(machine, accelerator)) is native


@rtx
@no_gpu
def test_engines_are_built_for_each_capability_without_a_gpu(tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Gpu(capabilities=("8.6", "12.0")).build(model(tmp_path / "m.onnx", quantized=True), out)
    manifest = json.loads((out / "engines.json").read_text())
    assert manifest["engines"] == {"8.6": "model.sm86.engine", "12.0": "model.sm120.engine"}
    assert all((out / name).stat().st_size > 1000 for name in manifest["engines"].values())


@rtx
@no_gpu
@pytest.mark.parametrize(("quantized", "precision"), [(True, "i8"), (False, "f32")])
def test_the_builder_says_what_each_convolution_became(quantized: bool, precision: str, tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Gpu(capabilities=("8.6",)).build(model(tmp_path / "m.onnx", quantized=quantized), out)
    found = Gpu().compiled(out)
    assert found is not None
    assert [kernel.precision for kernel in found] == [precision] * 3  # two convolutions and a matrix product
    assert all(kernel.names for kernel in found)


@rtx
@no_gpu
def test_a_dynamic_batch_builds(tmp_path: Path) -> None:
    out = folder(tmp_path / "out")
    Gpu(capabilities=("8.6",)).build(model(tmp_path / "m.onnx", batch="n"), out)
    assert Gpu().shipped(out) == (out / "model.sm86.engine",)


@rtx
@no_gpu
@pytest.mark.parametrize(
    ("capability", "says"), [("8.7", "have: 7.5, 8.0, 8.6"), ("../x", "have: 7.5"), ("7.5", "for SM 7.5")]
)
def test_a_capability_that_cannot_be_built_for_is_one_line(capability: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=says) as raised:
        Gpu(capabilities=(capability,)).build(model(tmp_path / "m.onnx"), folder(tmp_path / "out"))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(bool(_tensorrt.installed("tensorrt", *_tensorrt.RTX)), reason="TensorRT is installed")
def test_without_tensorrt_both_ways_to_get_it_are_named(tmp_path: Path) -> None:
    for attempt in (
        Gpu().versions,
        lambda: Gpu().build(model(tmp_path / "m.onnx"), folder(tmp_path / "out")),
    ):
        with pytest.raises(TargetError, match=r"\[rtx\].*\[tensorrt\]"):
            attempt()
    assert Jetson().versions() == {}


def test_tensorrts_profiler_gives_every_layers_times_in_order() -> None:
    class Profiler:  # in TensorRT's place, with nothing but what is used of it
        begun = False

        def __init__(self) -> None:
            self.begun = True

    context = SimpleNamespace(profiler=None)

    def call() -> None:
        assert context.profiler.begun
        for name, ms in (("conv2", 0.5), ("conv1", 0.25)):
            context.profiler.report_layer_time(name, ms)

    found = _tensorrt.profiled(SimpleNamespace(IProfiler=Profiler), context, call, 3)
    assert list(found.items()) == [("conv2", [0.5] * 3), ("conv1", [0.25] * 3)]


def test_layers_are_read_from_what_the_builder_of_tensorrt_rtx_logs() -> None:
    # lines of TensorRT for RTX 1.7, shortened within the braces
    said = (
        "Layers:\n"
        "Name: __myl_MulMinMaxRounCast_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,3,8,8],"
        " Datatype: Float }], Outputs: [ { Name: y, Datatype: Int8 }], StreamId: 0, Metadata: [ONNX Layer: q]\n"
        "Name: node_Conv_877_myl0_1, LayerType: correlation, Inputs: [ { Name: y, Dimensions: [1,4,8,8], Datatype:"
        " Int8 }], Constants: [ { Name: w, Datatype: Float }], Outputs: [ { Name: z, Datatype: Float }], TacticName: t,"
        " StreamId: 0, Metadata: [ONNX Layer: node_Conv_877][ONNX Layer: x_DequantizeLinear]\n"
        "\nI/O Tensors:\n Name: x, IOMode: Input, DataType: Float"
    )
    (only,) = _tensorrt.kernels(_tensorrt.logged(said))
    assert (only.kind, only.precision) == ("correlation", "i8")
    assert only.names == ("node_Conv_877", "x_DequantizeLinear")
    assert _tensorrt.logged("") == {"Layers": []}


def test_layer_information_is_counted_by_input_type() -> None:
    information = {
        "Layers": [
            {
                "Name": "c1",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Format/Datatype": "Row major Int8 format"}],
            },
            {"Name": "c2", "LayerType": "Convolution", "Inputs": [{"Format": "NCHW", "Datatype": "FP16"}]},
            {"Name": "fc", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
            {"Name": "r", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
        ]
    }
    assert _tensorrt.count_precisions(information) == {"f16": 1, "f32": 1, "i8": 1}
