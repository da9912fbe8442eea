"""A stand-in for trtexec: takes the options of a version and no others, and writes what that version writes.

It builds nothing. "Inference" is max(x, 0) of one input of 1x4. The forms are those of NVIDIA/TensorRT's
samples/common (sampleOptions.cpp, sampleReporting.cpp) and of public logs: NVIDIA/TensorRT issues #2426 (DLA), #4036
(10.2) and #4177, OE4T/meta-tegra #1150 (8.5.2 on a Xavier), OE4T/meta-tegra-community #113 (an AGX Orin). The values
are made up.
"""

import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

COMMON = (
    "--onnx --saveEngine --loadEngine --timingCacheFile --profilingVerbosity --exportLayerInfo --exportTimes"
    " --exportProfile --exportOutput --loadInputs --warmUp --duration --iterations --avgRuns --noTF32 --help"
)
OPTIONS = {
    "8502": f"{COMMON} --int8 --fp16 --useDLACore --allowGPUFallback --useCudaGraph --useSpinWait --buildOnly",
    "8602": f"{COMMON} --int8 --fp16 --useDLACore --allowGPUFallback --useCudaGraph --useSpinWait --skipInference",
    "100300": (
        f"{COMMON} --int8 --fp16 --useDLACore --allowGPUFallback --useCudaGraph --useSpinWait --skipInference"
        " --stronglyTyped"
    ),
    "110200": f"{COMMON} --skipInference --noCudaGraph --noSpinWait --includeDataTransfers",
    "7103": COMMON,
    "120000": COMMON,
}

SCRIPT = """#!{python}
import json, struct, sys
from pathlib import Path
VERSION, KNOWN, FAIL, CALLS = {version!r}, {known!r}.split(), {fail!r}, Path({calls!r})
given = dict(a.partition("=")[::2] for a in sys.argv[1:])
mark = "TensorRT.trtexec [TensorRT v" + VERSION + "]" + (" [b3]" if int(VERSION) > 100000 else "")
stamp = "[11/22/2026-15:00:00] "
print("&&&& RUNNING " + mark + " # " + " ".join(sys.argv))
if "--help" in given:
    print(*KNOWN, sep="\\n")
    sys.exit({help_code})
with CALLS.open("a") as log:
    print(*sys.argv[1:], file=log)
def fail(why):
    print(stamp + "[E] " + why)
    print(stamp + "[E] Engine set up failed")
    print("&&&& FAILED " + mark + " # trtexec")
    sys.exit(1)
unknown = [name for name in given if name not in KNOWN]
if unknown:
    fail("Unknown option: " + unknown[0])
if FAIL:
    fail(FAIL)
print(stamp + "[I] === Device Information ===")
print(stamp + "[I] Selected Device: Orin")
print(stamp + "[I] Compute Capability: 8.7")
if "--saveEngine" in given:
    print(stamp + "[I] [TRT] ---------- Layers Running on DLA ----------")
    if "--useDLACore" in given:
        print(stamp + "[I] [TRT] [DlaLayer] {{ForeignNode[conv1...relu3]}}")
    print(stamp + "[I] [TRT] ---------- Layers Running on GPU ----------")
    print(stamp + "[I] [TRT] [GpuLayer] CONVOLUTION: conv4 + relu4")
    cache = Path(given["--timingCacheFile"])
    cache.write_bytes((cache.read_bytes() if cache.exists() else b"") + b"timed ")
    Path(given["--saveEngine"]).write_bytes(b"engine of " + Path(given["--onnx"]).read_bytes())
    layer = dict(Name="conv4 + relu4", LayerType="CaskConvolution", TacticName="sm80_xmma_i8",
                 Inputs=[{{"Format/Datatype": "Row major Int8 format"}}])
    Path(given["--exportLayerInfo"]).write_text(json.dumps(dict(Layers=[layer], Bindings=["x", "y"])))
else:
    for words in ("{created}nput binding for x", "{made}utput binding for y"):
        print(stamp + "[I] " + words + " with dimensions 1x4{end}")
    calls = int(given["--iterations"])
    warm = float(given["--warmUp"])
    print(stamp + "[I] === Performance summary ===")
    print(stamp + "[I] Throughput: 740.5 qps")
    for name in ("Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency"):
        ms = 1.25 if name == "Latency" else 0.01
        print(stamp + f"[I] {{name}}: min = {{ms - .005}} ms, max = {{ms + 1}} ms, mean = {{ms}} ms, "
              f"median = {{ms}} ms, percentile(90%) = {{ms}} ms, percentile(99%) = {{ms + .5}} ms")
    if "--exportTimes" in given:
        weights = b"x" * 150_000_000
        trace = [(warm - 10, 9.0), *((warm + i, 1.25) for i in range(calls + 2))]  # 8.2 exports the warm-up too
        form = '{{ "startEnqMs" : %g, "startComputeMs" : %g, "latencyMs" : %g }}'
        body = "\\n, ".join(form % (at, at, ms) for at, ms in trace)
        Path(given["--exportTimes"]).write_text("[\\n  " + body + "\\n]\\n")
    if "--exportProfile" in given:
        Path(given["--exportProfile"]).write_text('[\\n  {{ "count" : 9 }}\\n, {{ "name" : "conv4 + relu4", '
            '"timeMs" : 9.9, "averageMs" : 1.1, "medianMs" : 1.05, "percentage" : nan }}\\n]\\n')
    if "--exportOutput" in given:
        raw = Path(given["--loadInputs"].partition(":")[2]).read_bytes()
        values = [max(0.0, v) for v in struct.unpack("<4f", raw)]
        Path(given["--exportOutput"]).write_text('[\\n  {{ "name" : "y"\\n  , "dimensions" : "1x4"\\n  , "values" : [ '
            + ", ".join("%g" % v for v in values) + " ]\\n  }}\\n]\\n")
print("&&&& PASSED " + mark + " # trtexec")
"""


def trtexec(folder: Path, version: str, fail: str = "", help_code: int = 0) -> Path:
    """Write a stand-in of a version; what it was asked lands in `folder`/calls."""
    old = int(version) < 8600
    path = folder / "trtexec"
    path.write_text(
        SCRIPT.format(
            python=sys.executable,
            version=version,
            known=OPTIONS[version],
            fail=fail,
            calls=str(folder / "calls"),
            help_code=help_code,
            created="Created i" if old else "I",
            made="Created o" if old else "O",
            end="" if old else " is created.",
        )
    )
    path.chmod(0o755)
    return path


def asked(folder: Path) -> list[list[str]]:
    """The arguments of each run so far, questions for help left out."""
    return [line.split() for line in (folder / "calls").read_text().splitlines()]


def model(path: Path, quantized: bool = False) -> Path:
    """Write y = max(x, 0), x of 1x4, with a Q/DQ pair or without."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    weights = []
    if quantized:
        weights = [
            helper.make_tensor("s", TensorProto.FLOAT, (), [0.1]),
            helper.make_tensor("z", TensorProto.INT8, (), [0]),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Relu", ["d"], ["y"]),
        ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
