"""ONNX Runtime mobile: an .ort file, what a reduced runtime must contain, and a usability check."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import tempfile
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple, Type

import numpy as np

from targets.base import Int8Scheme, Kernel, Layer, Target, TargetError, precisions
from targets.cpuinfo import saturates_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.base import Runner, Tensors
    from targets.devices.base import Fingerprint

PLATFORMS = ("arm", "amd64")
KERNEL = re.compile(r"Conv|Gemm|MatMul|Attention|LSTM|GRU")
# What a profile's events add to the name of the node, or of the tensor that a reordered node writes.
EVENT = re.compile(r"(_nchwc)?(_token_\d+)?_kernel_time$")
PRECISION = {
    "float": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "double": "f64",
    "uint8": "i8",
    "int8": "i8",
}
VERDICT = re.compile(r"Model should perform well with (.+) as is: (\w+)")


@dataclass(frozen=True)
class Mobile(Target):
    """Convert to the ORT format, optimised in full at build time, and run on the CPU execution provider.

    `platform` is the kind of CPU it ships to. NNAPI and CoreML are not used: NNAPI is deprecated and was
    measured slower than the CPU; the usability check says what each could take over.
    """

    threads: int = 1
    platform: str = "arm"
    streams: int = 1  # calls that run at once in throughput mode

    scheme: ClassVar[Int8Scheme] = Int8Scheme(
        activation="uint8",  # QLinearConv's fast path on x86 is u8 × s8 (onnxruntime#6732); Arm has both
        symmetric=False,  # u8 zero points cost nothing in MLAS
        per_channel=True,
        joined=("Add", "Concat", "GlobalAveragePool", "AveragePool", "MaxPool"),  # all have QLinear kernels
        quantize_outputs=True,  # QLinear kernels write u8: without the output's scale nothing fuses
        quantize_bias=True,  # QLinearConv takes an int32 bias of scale x·w, and no other
    )
    uses: ClassVar[Tuple[str, ...]] = ("onnxruntime", "onnx")
    align: ClassVar[int] = 8  # MLAS blocks NCHWc channels by 8 (NEON, AVX2) or 16; unaligned ones fall back

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise TargetError(f"target mobile: platform must be arm or amd64, got {self.platform!r}")
        for name in ("threads", "streams"):
            if getattr(self, name) < 1:
                raise TargetError(f"target mobile: {name} must be 1 or more, got {getattr(self, name)}")
        if self.platform == "amd64" and saturates_int8():
            # MLAS's u8·s8 kernels saturate on this PC; those for Arm widen before they add
            object.__setattr__(self, "scheme", replace(type(self).scheme, reduced_range=True))

    def build(self, onnx: Path, out: Path) -> None:
        """Write model.ort, required_operators.config (for a reduced runtime) and usability.json."""
        # The tools name their files after the model and scan the folder it lies in.
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / "model.onnx"
            try:
                shutil.copyfile(onnx, model)
                _copy_external(onnx, model)
                self._convert(model, Path(scratch) / "ort")
            except _runtime_errors() as error:
                raise TargetError(f"ONNX Runtime cannot convert {onnx}: {_one_line(error)}") from error
            shutil.copyfile(Path(scratch) / "ort" / "model.ort", out / "model.ort")
            config = next((Path(scratch) / "ort").glob("*.config")).read_text()
            (out / "required_operators.config").write_text(_without_paths(config))
            (out / "usability.json").write_text(json.dumps(_usability(model), indent=2) + "\n")

    @contextmanager
    def open(self, built: Path) -> Iterator[Runner]:
        """Load model.ort on the CPU execution provider."""
        try:
            yield OrtRunner(built / "model.ort", self.threads)
        except _runtime_errors() as error:
            raise TargetError(f"ONNX Runtime cannot run {built / 'model.ort'}: {_one_line(error)}") from error

    def prepare(self) -> None:
        """Import ONNX Runtime."""
        import onnxruntime  # noqa: F401

    def shipped(self, built: Path) -> Tuple[Path, ...]:
        """The model alone: the operator list goes into the build of the runtime."""
        return (built / "model.ort",)

    def is_native(self, device: Fingerprint) -> bool:
        """Whether `device` has the kind of CPU this is for: a PC's latency says little about a phone's."""
        arm = device.machine in ("aarch64", "arm64", "armv7l")
        return arm == (self.platform == "arm")

    def _convert(self, model: Path, out: Path) -> None:
        from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

        with _quiet():
            convert_onnx_models_to_ort(
                model,
                output_dir=out,
                optimization_styles=[OptimizationStyle.Fixed],  # 'Runtime' is for NNAPI and CoreML
                target_platform=self.platform,
                enable_type_reduction=True,
            )


class OrtRunner:
    """An ONNX Runtime session on the CPU."""

    def __init__(self, model: Path, threads: int, session: Any = None) -> None:
        self._model, self._threads = model, threads
        self._session = session or self._make()
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: Tensors, /) -> Tensors:
        """Run one batch."""
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds)))

    @property
    def inputs(self) -> Mapping[str, Tuple[int, ...]]:
        """Input shapes by name; a dynamic dimension reads -1."""
        return {i.name: tuple(d if isinstance(d, int) else -1 for d in i.shape) for i in self._session.get_inputs()}

    def kernels(self) -> Tuple[Kernel, ...]:
        """Compute kernels that a profiled run executed.

        The profile is of a second session over the same file, so that the timed one carries no profiler.
        Dynamic dimensions are run at 1.
        """
        found = []
        for event in self._profile():
            args = event.get("args", {})
            if event.get("cat") == "Node" and KERNEL.search(args.get("op_name", "")):
                name = EVENT.sub("", event["name"])
                found.append(Kernel(args["op_name"], _kernel_precision(args), (name,) if name else ()))
        return tuple(found)

    def precision(self) -> Dict[str, int]:
        """Compute kernels that a profiled run executed, by the type of their first input."""
        return precisions(self.kernels())

    def stream(self) -> Runner:
        """The same session, which runs in its caller's thread; one of its own where it has more threads."""
        return OrtRunner(self._model, self._threads, self._session if self._threads == 1 else None)

    def layers(self, feeds: Tensors, calls: int) -> Tuple[Layer, ...]:
        """Median time of each node, by ONNX Runtime's profiler; its kernels have no names."""
        times: Dict[str, List[int]] = {}
        nodes: Dict[str, Mapping[str, Any]] = {}
        for event in self._profile(feeds, calls):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times.setdefault(event["name"], []).append(int(event["dur"]) * 1000)
                nodes.setdefault(event["name"], event["args"])
        return tuple(
            Layer(EVENT.sub("", name), args["op_name"], "", _kernel_precision(args), int(np.median(times[name])))
            for name, args in nodes.items()
        )

    def _make(self, profile: str = "") -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors only
        # Idle workers of this session must not spin into the block that another artifact is timed in.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(str(self._model), options, providers=["CPUExecutionProvider"])

    def _profile(self, feeds: Optional[Tensors] = None, calls: int = 1) -> Any:
        """The profiler's events of a session of its own: it slows down what it watches."""
        with tempfile.TemporaryDirectory() as scratch:
            session = self._make(str(Path(scratch) / "profile"))
            given = feeds or {i.name: _zeros(i) for i in session.get_inputs()}
            for _ in range(calls):
                session.run(None, given)
            return json.loads(Path(session.end_profiling()).read_text())


def _zeros(tensor: Any) -> NDArray[Any]:
    kinds = {"float": "float32", "double": "float64"}
    kind = str(tensor.type)[len("tensor(") : -1]
    return np.zeros([d if isinstance(d, int) else 1 for d in tensor.shape], kinds.get(kind, kind))


def _kernel_precision(args: Mapping[str, Any]) -> str:
    # Its input is float, and it multiplies in int8.
    if args["op_name"].startswith("DynamicQuantize"):
        return "i8"
    shapes = args.get("input_type_shape") or [{"unknown": []}]
    kind = next(iter(shapes[0]))
    return PRECISION.get(str(kind), str(kind))


def _usability(model: Path) -> Dict[str, Any]:
    """What ONNX Runtime's checker says about handing the model to NNAPI or CoreML instead of the CPU."""
    from onnxruntime.tools.mobile_helpers import usability_checker

    text = io.StringIO()
    logger = logging.Logger("usability", logging.INFO)
    logger.addHandler(logging.StreamHandler(text))
    with _quiet():
        worth_a_try = usability_checker.analyze_model(model, logger=logger)
    log = [line for line in text.getvalue().splitlines() if str(model) not in line]
    return {
        "accelerator_worth_a_try": worth_a_try,
        "verdicts": dict(VERDICT.findall("\n".join(log))),
        "log": log,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' chatter off the console; what went wrong reaches the caller as an exception."""
    tools = logging.getLogger("ort_format_model.utils")
    disabled, tools.disabled = tools.disabled, True
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # they leave closing files to the collector
            yield
    finally:
        tools.disabled = disabled


def _copy_external(onnx: Path, copy: Path) -> None:
    """Copy the weights that a large model keeps in files beside it."""
    import onnx as onnx_format
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    for tensor in onnx_format.load(str(onnx), load_external_data=False).graph.initializer:
        if uses_external_data(tensor):
            name = ExternalDataInfo(tensor).location
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise TargetError(f"{onnx} refers to weights outside its folder: {name}")
            (copy.parent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(onnx.parent / name, copy.parent / name)


def _without_paths(config: str) -> str:
    """Drop the comment with the scratch path, which would make every build's bytes differ."""
    kept = [line for line in config.splitlines() if not line.startswith("#")]
    return "\n".join(["# Pass to onnxruntime's build.py: --include_ops_by_config", *kept]) + "\n"


def _runtime_errors() -> Tuple[Type[Exception], ...]:
    """What ONNX Runtime, protobuf and the tools raise; their own exceptions share no base but Exception."""
    from google.protobuf.message import DecodeError
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile")
    found = (getattr(state, name) for name in (*names, "NotImplemented", "RuntimeException"))
    return (DecodeError, OSError, RuntimeError, ValueError, *found)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
