"""OpenVINO on CPUs: IR files, and a compiled model beside them for a fast start on the CPU that built it."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, Iterator, Mapping, Optional, Sequence, Tuple, cast

import numpy as np

from targets.backends._fake_quantize import fold_pairs
from targets.base import Int8Scheme, Kernel, Layer, Target, TargetError, precisions
from targets.cpuinfo import cpu_features, cpu_model, saturates_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.base import Runner, Tensors

PRECISIONS = ("f32", "bf16", "f16", "auto")
MADE = ("/WithoutBiases", "/Dequantization", "/DequantizationMultiply")  # suffixes of layers split off another
KERNELS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq"})


@dataclass(frozen=True)
class Cpu(Target):
    """Compile to OpenVINO IR and run with a pinned precision and the latency hint, `threads` for each stream.

    `precision` is what float layers run in; Q/DQ layers run in int8 whatever it says. OpenVINO by itself
    ("auto") takes bf16 wherever the CPU has it, without a word: top-1 agreement with f32 was 99.3% there.
    """

    threads: int = 1
    precision: str = "f32"
    streams: int = 1  # calls that run at once in throughput mode

    scheme: ClassVar[Int8Scheme] = Int8Scheme(
        activation="uint8",  # oneDNN's int8 kernels take u8 sources natively; s8 costs a compensation term
        symmetric=False,  # a tensor of one sign keeps all 255 steps
        # With the zero point at 128 low precision transformations make it signed, without a zero point, which oneDNN
        # would correct for at each border: of 8 networks 6 were 2 to 7% faster at this and 2 the same, 7 lost
        # less than a dB and one 8 of its 69 (OpenVINO 2026.4)
        centred=1.3,
        per_channel=True,  # oneDNN scales per output channel at no cost
        joined=(
            "Add",
            "Concat",
            "MaxPool",
        ),  # low precision transformations fuse the residual add into the convolution
        quantize_outputs=False,  # a Q/DQ pair between Conv and Relu breaks the fusion of both
        quantize_bias=False,  # the plug-in wants f32 bias behind the dequantization
    )
    uses: ClassVar[Tuple[str, ...]] = ("openvino",)
    align: ClassVar[int] = 8  # oneDNN's AVX2 block; its AVX-512 kernels pad blocks of 16 cheaply

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise TargetError(f"target cpu: precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        for name in ("threads", "streams"):
            if getattr(self, name) < 1:
                raise TargetError(f"target cpu: {name} must be 1 or more, got {getattr(self, name)}")
        if saturates_int8():
            # oneDNN's u8·s8 kernels saturate on this CPU, which is the one it is built for
            object.__setattr__(self, "scheme", replace(type(self).scheme, reduced_range=True))

    def build(self, onnx: Path, out: Path) -> None:
        """Write model.xml and model.bin, and the compiled model with a note of what it was compiled for."""
        ov = load_openvino()
        core = ov.Core()
        try:
            model = core.read_model(onnx)
            fold_pairs(model)
            ov.save_model(model, out / "model.xml", compress_to_fp16=self.precision == "f16")
            # From the file, not from `model`: what is timed is what ships.
            compiled = core.compile_model(out / "model.xml", "CPU", self._config())
        except RuntimeError as error:
            raise TargetError(f"OpenVINO cannot compile {onnx}: {_reason(error)}") from error
        blob = bytes(compiled.export_model().getbuffer())
        (out / "model.blob").write_bytes(blob)
        note = json.dumps({**self._made_for(), "sha256": _sha256(blob)}, indent=2, sort_keys=True)
        (out / "model.blob.json").write_text(note + "\n")

    @contextmanager
    def open(self, built: Path) -> Iterator[Runner]:
        """Load the compiled model where it fits this CPU and OpenVINO, else compile the IR."""
        ov = load_openvino()
        core = ov.Core()
        try:
            compiled = self._imported(core, built) or core.compile_model(built / "model.xml", "CPU", self._config())
        except RuntimeError as error:
            raise TargetError(f"OpenVINO cannot load {built / 'model.xml'}: {_reason(error)}") from error
        profiled = {**self._config(), "PERF_COUNT": True}
        yield OpenVinoRunner(compiled, lambda: core.compile_model(built / "model.xml", "CPU", profiled))

    def prepare(self) -> None:
        """Import OpenVINO."""
        load_openvino()

    def shipped(self, built: Path) -> Tuple[Path, ...]:
        """The IR. The compiled model is a cache: it repeats the weights, for this CPU alone."""
        return built / "model.xml", built / "model.bin"

    def _config(self) -> Dict[str, Any]:
        config: Dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.threads * self.streams,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": self.streams,
        }
        if self.precision != "auto":
            config["INFERENCE_PRECISION_HINT"] = self.precision
        return config

    def _made_for(self) -> Dict[str, Any]:
        """All that a compiled model depends on. One for another CPU can crash, so it is never tried."""
        return {
            "openvino": self.versions()["openvino"],
            "machine": platform.machine(),
            "cpu": cpu_model(),
            "features": list(cpu_features()),
            "config": self._config(),
        }

    def _imported(self, core: Any, built: Path) -> Optional[Any]:
        """Return the stored compiled model, or None where it is absent, damaged or for another machine."""
        blob, note = built / "model.blob", built / "model.blob.json"
        if not (blob.is_file() and note.is_file()):
            return None
        data = blob.read_bytes()
        if _read_json(note) != {**self._made_for(), "sha256": _sha256(data)}:
            return None
        return core.import_model(data, "CPU", self._config())


class OpenVinoRunner:
    """A compiled OpenVINO model behind one inference request."""

    def __init__(self, compiled: Any, profiled: Callable[[], Any]) -> None:
        self._compiled, self._profiled = compiled, profiled
        self._request = compiled.create_infer_request()
        self._outputs = tuple(_port_name(port) for port in compiled.outputs)
        self._views = self._static_views()

    def __call__(self, feeds: Tensors, /) -> Tensors:
        """Run one batch; inputs are copied in and outputs out, as an application would."""
        if self._views is None:
            result = self._request.infer(dict(feeds), share_inputs=True)
            return dict(zip(self._outputs, result.values()))
        inputs, outputs = self._views
        for name, view in inputs.items():
            np.copyto(view, feeds[name], casting="no")
        self._request.infer(share_outputs=True)
        return {name: view.copy() for name, view in outputs.items()}

    @property
    def inputs(self) -> Mapping[str, Tuple[int, ...]]:
        """Input shapes by name; a dynamic dimension reads -1."""
        return {
            _port_name(port): tuple(-1 if d.is_dynamic else d.get_length() for d in port.partial_shape)
            for port in self._compiled.inputs
        }

    def kernels(self) -> Tuple[Kernel, ...]:
        """Compute kernels as the runtime model has them."""
        found = []
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            kind = info["layerType"].astype(str)
            if kind in KERNELS:
                names = _names(info["originalLayersNames"].astype(str))
                found.append(Kernel(kind, _short(info["runtimePrecision"].astype(str)), names))
        return tuple(found)

    def precision(self) -> Dict[str, int]:
        """Compute kernels by the precision that the runtime model says each one runs in."""
        return precisions(self.kernels())

    def stream(self) -> Runner:
        """Another inference request of the same compiled model."""
        return OpenVinoRunner(self._compiled, self._profiled)

    def layers(self, feeds: Tensors, calls: int) -> Tuple[Layer, ...]:
        """Median time of each layer that ran, by OpenVINO's performance counters, in whole microseconds."""
        compiled = self._profiled()
        request = compiled.create_infer_request()
        names = {_port_name(port): port for port in compiled.inputs}
        told = []
        for _ in range(calls):
            request.infer({names[name]: array for name, array in feeds.items()})
            told.append(request.get_profiling_info())
        # A call of less than a microsecond reads "not run": so a layer is one that ran in any call.
        return tuple(_layer(infos) for infos in zip(*told) if any(map(_ran, infos)))

    def _static_views(self) -> Optional[Tuple[Dict[str, NDArray[Any]], Dict[str, NDArray[Any]]]]:
        """Arrays over the request's own tensors: half the call's overhead. None where shapes are dynamic."""
        ports = [*self._compiled.inputs, *self._compiled.outputs]
        if any(port.partial_shape.is_dynamic for port in ports):
            return None
        inputs = {_port_name(port): self._request.get_tensor(port).data for port in self._compiled.inputs}
        outputs = {_port_name(port): self._request.get_tensor(port).data for port in self._compiled.outputs}
        return inputs, outputs


def _ran(info: Any) -> bool:
    return str(info.status).endswith(".EXECUTED")


def _layer(infos: Sequence[Any]) -> Layer:
    """What one layer took in each of several calls."""
    ran = next(info for info in infos if _ran(info))
    kernel, _, precision = str(ran.exec_type).rpartition("_")
    time_ns = int(np.median([info.real_time.total_seconds() for info in infos]) * 1e9)
    return Layer(ran.node_name, ran.node_type, kernel, _short(precision.lower()), time_ns)


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    By default the import reports over the network from a forked child, which runs beside what is being timed,
    inherits this process's pipes, and was seen to hang where there is no network. OpenVINO does without the
    package where it cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", cast(Any, None))
    import openvino

    return openvino


def _port_name(port: Any) -> str:
    """The ONNX name of an input or output: where a cast was optimised away, its own name is the port's too."""
    node = port.node.friendly_name.partition("/sink_port_")[0]
    return str(node if node in port.names else port.any_name)


def _names(listed: str) -> Tuple[str, ...]:
    """The layers that a kernel came from; OpenVINO appends what it made of one, as in "conv/WithoutBiases"."""
    found: Dict[str, None] = {}
    for name in listed.split(","):
        found[name] = None
        for made in MADE:
            found[name.partition(made)[0]] = None
    return tuple(name for name in found if name)


def _short(precision: str) -> str:
    """u8 and i8 are the sources of the same int8 kernels; weights are i8 in both."""
    return "i8" if precision == "u8" else precision


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def _reason(error: RuntimeError) -> str:
    """OpenVINO's own words without its call sites."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or lines)[:500]
