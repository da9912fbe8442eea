"""What TensorRT and TensorRT for RTX share: one API, one ONNX parser, two sets of engines.

Both are optional. `tensorrt` builds for the GPU at hand and for no other; `tensorrt_rtx` also builds ahead of
time for compute capabilities that are not there, on machines with no GPU at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from targets.base import Kernel, Layer, TargetError, precisions

# Import name -> the distributions it may come from. Without its metapackage, RTX imports as its bindings.
MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt-rtx-cu13-bindings"),
    "tensorrt_rtx_bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
}
RTX = ("tensorrt_rtx", "tensorrt_rtx_bindings")
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
KERNEL = re.compile(r"conv|correlation|gemm|matmul|matrixmultiply|fully", re.IGNORECASE)
LOGGED = "Layers:"  # what the builder's account of an engine begins with
LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\](?:, Constants|, Outputs)"
)
DATATYPE = re.compile(r"Datatype: (\w+)")


@dataclass(frozen=True)
class Api:
    """An installed TensorRT: its module, its name, its version."""

    module: Any
    name: str  # "tensorrt" or "tensorrt_rtx"
    version: str

    @property
    def rtx(self) -> bool:
        """Whether this is TensorRT for RTX, which builds for capabilities rather than for the GPU at hand."""
        return self.name == "tensorrt_rtx"


def find(*names: str) -> Optional[Api]:
    """Import the first of the modules `names` that is installed; None if none is."""
    for name in names:
        if find_spec(name) is not None:
            return Api(import_module(name), "tensorrt_rtx" if name in RTX else name, _version(name))
    return None


def installed(*names: str) -> Dict[str, str]:
    """Version of the first of `names` that is installed, by name, without importing it; empty if none is."""
    for name in names:
        if find_spec(name) is not None:
            return {"tensorrt_rtx" if name in RTX else name: _version(name)}
    return {}


@dataclass(frozen=True)
class Messages:
    """What TensorRT said, and the logger to hand to it."""

    logger: Any
    errors: List[str]
    layers: List[str]  # the builder's account of each engine, where it gives one

    def first(self) -> str:
        """The first error in one line: later ones follow from it."""
        return " ".join(self.errors[0].split())[:500] if self.errors else "no reason given"


def messages(trt: Any) -> Messages:
    """Make a logger that collects errors, and what engines are made of, in place of printing all that is said."""
    errors: List[str] = []
    layers: List[str] = []

    def log(_: Any, severity: Any, text: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            errors.append(text)
        elif text.startswith(LOGGED):
            layers.append(text)

    def init(self: Any) -> None:
        trt.ILogger.__init__(self)

    # Made at run time: the base class is in a module that may not be installed.
    logger = type("Logger", (trt.ILogger,), {"__init__": init, "log": log})
    return Messages(logger(), errors, layers)


def parse(trt: Any, builder: Any, log: Messages, onnx: Path, typed: bool = True) -> Tuple[Any, Any]:
    """Parse an ONNX file, into a strongly typed network where that is wanted. Raises TargetError with its words.

    Returns the network and its parser, which owns the weights and must outlive it.
    """
    flags = trt.NetworkDefinitionCreationFlag
    # Strong typing: the precision is what the file says on every version, and 11 knows nothing else.
    wanted = 1 << int(flags.STRONGLY_TYPED) if typed and hasattr(flags, "STRONGLY_TYPED") else 0
    if not hasattr(flags, "STRONGLY_TYPED"):  # 8: the ONNX parser takes no other networks; 10 has no others
        wanted = 1 << int(flags.EXPLICIT_BATCH)
    network = builder.create_network(wanted)
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx)):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        reason = " ".join((said or log.errors or ["no reason given"])[0].split())
        raise TargetError(f"TensorRT's ONNX parser refuses {onnx}: {reason[:500]}")
    return network, parser


def check(onnx: Path) -> str:
    """Parse `onnx` as TensorRT would on the device, and say with what it was checked.

    Raises TargetError if the parser refuses. Returns "unchecked: …" where no parser is installed.
    """
    api = find("tensorrt", *RTX)
    if api is None:
        return "unchecked: no TensorRT parser installed; pip install '.[rtx]' adds one that needs no GPU"
    log = messages(api.module)
    parse(api.module, api.module.Builder(log.logger), log, onnx)
    return f"parsed by the ONNX parser of {api.name} {api.version}"


def layers(trt: Any, engine: Any) -> str:
    """Return the engine inspector's JSON: every layer, with its formats and types."""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def profiled(trt: Any, context: Any, call: Callable[[], object], calls: int) -> Dict[str, List[float]]:
    """Milliseconds of each layer in each of `calls` calls, in the order they run; `call` uses `context`."""
    found: Dict[str, List[float]] = {}

    def init(self: Any) -> None:
        trt.IProfiler.__init__(self)

    def report_layer_time(_: Any, layer_name: str, ms: float) -> None:
        found.setdefault(layer_name, []).append(ms)

    made = type("Profiler", (trt.IProfiler,), {"__init__": init, "report_layer_time": report_layer_time})
    profiler = made()  # must outlive the calls
    context.profiler = profiler
    for _ in range(calls):
        call()
    return found


def timed(information: Mapping[str, Any], median_ms: Iterable[Tuple[str, float]]) -> Tuple[Layer, ...]:
    """Layers with what the inspector's JSON says of them, from the median time of each by name."""
    known = described(information)
    return tuple(Layer(name, *known.get(name, ("", "", "")), round(ms * 1e6)) for name, ms in median_ms)


def logged(text: str) -> Dict[str, Any]:
    """What the builder's log says an engine is made of, in the form of the inspector's JSON.

    TensorRT for RTX builds where nothing can load the engine, so that its inspector cannot be asked.
    """
    found = []
    for line in text.splitlines():
        said = LINE.match(line)
        if said:
            inputs = [{"Datatype": kind} for kind in DATATYPE.findall(said["inputs"])]
            metadata = line.partition("Metadata: ")[2]
            found.append({"Name": said["name"], "LayerType": said["kind"], "Inputs": inputs, "Metadata": metadata})
    return {"Layers": found}


def kernels(information: Mapping[str, Any]) -> Tuple[Kernel, ...]:
    """Compute layers with the type of their first input, from the inspector's JSON with details."""
    found = []
    for layer in information.get("Layers", ()):
        if isinstance(layer, dict) and KERNEL.search(f"{layer.get('LayerType', '')} {layer.get('Name', '')}"):
            first = (layer.get("Inputs") or [{}])[0]
            kind = _precision(f"{first.get('Format/Datatype', '')} {first.get('Datatype', '')}")
            found.append(Kernel(str(layer.get("LayerType", "")), kind, _names(layer)))
    return tuple(found)


def count_precisions(information: Mapping[str, Any]) -> Dict[str, int]:
    """Count compute layers by the type of their first input, from the inspector's JSON with details."""
    return precisions(kernels(information))


def described(information: Mapping[str, Any]) -> Dict[str, Tuple[str, str, str]]:
    """Kind, kernel and precision of each layer by name, from the inspector's JSON with details."""
    found = {}
    for layer in information.get("Layers", ()):
        if isinstance(layer, dict):
            first = (layer.get("Inputs") or [{}])[0]
            kind = _precision(f"{first.get('Format/Datatype', '')} {first.get('Datatype', '')}")
            words = (str(layer.get("LayerType", "")), str(layer.get("TacticName", "")))
            found[str(layer.get("Name", ""))] = (*words, "" if kind == "unknown" else kind)
    return found


def capability(trt: Any, wanted: str) -> Any:
    """The member of TensorRT for RTX for a compute capability such as "8.6". Raises TargetError."""
    members = trt.ComputeCapability.__members__
    name = f"SM{wanted.replace('.', '')}"
    if name not in members:
        have = ", ".join(f"{m[2:-1]}.{m[-1]}" for m in members if m.startswith("SM"))
        raise TargetError(f"target gpu: cannot build for compute capability {wanted!r}; have: {have}")
    return members[name]


def _names(layer: Mapping[str, Any]) -> Tuple[str, ...]:
    """The ONNX nodes of a layer: from its metadata, or from its name, in which "+" joins fused layers."""
    stated = ONNX_LAYER.findall(str(layer.get("Metadata", "")))
    return tuple(stated or (name.strip() for name in str(layer.get("Name", "")).split(" + ") if name.strip()))


def _precision(words: str) -> str:
    text = words.lower()
    for short, names in (
        ("i8", ("int8",)),
        ("bf16", ("bf16", "bfloat16")),
        ("f16", ("fp16", "half", "float16")),
        ("f8", ("fp8",)),
        ("f32", ("fp32", "float")),
    ):
        if any(name in text for name in names):
            return short
    return "unknown"


def _version(module: str) -> str:
    for distribution in MODULES[module]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    # JetPack installs TensorRT as a Debian package, without Python metadata.
    return str(import_module(module).__version__)
