"""TensorRT on NVIDIA GPUs: engines for the GPU at hand, or ahead of time with TensorRT for RTX.

Building ahead of time was run and tested. Running an engine takes a GPU, which the machine this was written
on lacks: `EngineRunner` follows TensorRT's documented calls and is untested.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Iterator, Mapping, Optional, Sequence, Tuple

import numpy as np

from targets.backends import _cuda, _engines, _tensorrt
from targets.base import Int8Scheme, Kernel, Layer, NoDeviceError, Target, TargetError, precisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from targets.base import Runner, Tensors
    from targets.devices.base import Fingerprint

TENSORRT_INT8 = Int8Scheme(
    activation="int8",  # TensorRT quantizes symmetrically to int8 and refuses any other zero point
    symmetric=True,
    per_channel=True,  # weights only; activations are always per tensor
    joined=("Add",),  # with its skip input in int8 it fuses into the convolution before it (NVIDIA/TensorRT#1992)
    quantize_outputs=False,  # Q/DQ behind Conv or before Relu breaks Conv+Relu fusion
    quantize_bias=False,  # explicit quantization takes the bias in float
    min_gemm=16,  # int8 tensor cores take 16 at a time; ModelOpt skips smaller GEMMs too
)
MANIFEST = "engines.json"
LAYERS = "layers.json"


@dataclass(frozen=True)
class Gpu(Target):
    """Build one engine per compute capability.

    With a GPU and `tensorrt`, the engine is for that GPU. Otherwise TensorRT for RTX builds, on any x86-64
    machine, for `capabilities`: "7.5", "8.0", "8.6", "8.9", "12.0", "12.1". A dynamic batch gets 1 to
    `max_batch`.
    """

    capabilities: Tuple[str, ...] = ("8.6", "12.0")
    max_batch: int = 16

    scheme: ClassVar[Int8Scheme] = TENSORRT_INT8
    uses: ClassVar[Tuple[str, ...]] = ()  # which of the two depends on the machine: see versions
    extra: ClassVar[Optional[str]] = "rtx"
    align: ClassVar[int] = 16  # int8 tensor cores load 128 bits (cutlass#75): 16 channels

    def __post_init__(self) -> None:
        if not self.capabilities:
            raise TargetError('target gpu: capabilities is empty; give compute capabilities such as ["8.6"]')
        if self.max_batch < 1:
            raise TargetError(f"target gpu: max_batch must be 1 or more, got {self.max_batch}")

    def versions(self) -> Dict[str, str]:
        """Version of the TensorRT that would build here. Raises TargetError naming the extras without one."""
        found = _tensorrt.installed(*_wanted())
        if not found:
            raise _missing()
        return found

    def build(self, onnx: Path, out: Path) -> None:
        """Write model.smXX.engine per capability, engines.json, and layers.json, of what the first is made of.

        The layers are read from the engine where a GPU can load it, elsewhere from what the builder said of it.
        """
        api = _tensorrt.find(*_wanted())
        if api is None:
            raise _missing()
        capabilities = self.capabilities if api.rtx else (_cuda.gpus()[0].capability,)
        engines = {c: f"model.sm{c.replace('.', '')}.engine" for c in capabilities}
        said = []
        for capability, name in engines.items():
            wish = _engines.Wish(onnx, self.max_batch, capability if api.rtx else None)
            made = _engines.build(api, wish)
            (out / name).write_bytes(made.serialized)
            said.append(made.said)
        manifest = {"runtime": api.name, "version": api.version, "engines": engines}
        (out / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        if self.runs_here() is None:
            _write_layers(api, out, engines)
        elif said[0]["Layers"]:
            (out / LAYERS).write_text(json.dumps(said[0], indent=1) + "\n")

    @contextmanager
    def open(self, built: Path) -> Iterator[Runner]:
        """Load the engine for this machine's GPU. Raises NoDeviceError without a GPU, or with another one."""
        gpus = _cuda.gpus()
        if not gpus:
            raise NoDeviceError("no device: this machine has no NVIDIA GPU, or its driver is not loaded")
        manifest = json.loads((built / MANIFEST).read_text())
        name = manifest["engines"].get(gpus[0].capability)
        if name is None:
            have = ", ".join(manifest["engines"])
            raise NoDeviceError(
                f"no engine for {gpus[0].name}: it has capability {gpus[0].capability}, built for {have}"
            )
        api = _tensorrt.find(*(_tensorrt.RTX if manifest["runtime"] == "tensorrt_rtx" else ("tensorrt",)))
        if api is None or api.version != manifest["version"]:
            raise TargetError(
                f"{built / name} needs {manifest['runtime']} {manifest['version']},"
                f" here is {api.version if api else 'none'}: rebuild it on this machine"
            )
        runner = EngineRunner(api.module, built / name)
        try:
            yield runner
        finally:
            runner.close()

    def shipped(self, built: Path) -> Tuple[Path, ...]:
        """The engine of the first capability: a device gets one, and they differ little in size."""
        manifest = json.loads((built / MANIFEST).read_text())
        first = next((c for c in self.capabilities if c in manifest["engines"]), None)
        return (built / manifest["engines"][first or next(iter(manifest["engines"]))],)

    def compiled(self, built: Path) -> Optional[Tuple[Kernel, ...]]:
        """The compute layers of layers.json."""
        path = built / LAYERS
        return _tensorrt.kernels(json.loads(path.read_text())) if path.exists() else None

    def runs_here(self) -> Optional[str]:
        """Return "no device" on a machine without an NVIDIA GPU, or without one that the engines are for."""
        gpus = _cuda.gpus()
        if not gpus:
            return "no device"
        api = _tensorrt.find(*_wanted())
        if api is not None and api.rtx and gpus[0].capability not in self.capabilities:
            return f"no device: the GPU here has capability {gpus[0].capability}"
        return None

    def is_native(self, device: Fingerprint) -> bool:
        """Whether `device` has an NVIDIA GPU."""
        return device.accelerator.startswith("NVIDIA")


class EngineRunner:
    """An engine with its buffers on the GPU. Untested: see the head of this file."""

    def __init__(self, trt: Any, path: Path, notes: Sequence[str] = ()) -> None:
        self.notes: Tuple[str, ...] = tuple(notes)
        self._trt = trt
        self._stream = _cuda.Stream()
        self._log = _tensorrt.messages(trt)
        runtime = trt.Runtime(self._log.logger)
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise TargetError(f"TensorRT cannot load {path}: {self._log.first()}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = self._engine.get_tensor_mode
        self._inputs = [n for n in names if mode(n) == trt.TensorIOMode.INPUT]
        self._outputs = [n for n in names if mode(n) == trt.TensorIOMode.OUTPUT]
        self._buffers: Dict[str, Tuple[int, int]] = {}  # name -> address, size

    def __call__(self, feeds: Tensors, /) -> Tensors:
        """Copy the inputs to the GPU, run, copy the outputs back, wait."""
        for name in self._inputs:
            array = np.ascontiguousarray(feeds[name])
            self._context.set_input_shape(name, array.shape)
            self._stream.upload(self._bind(name, array.nbytes), array)
        results = {name: self._empty(name) for name in self._outputs}
        for name, array in results.items():
            self._bind(name, array.nbytes)
        if not self._context.execute_async_v3(self._stream.handle):
            raise TargetError(f"TensorRT cannot run the engine: {self._log.first()}")
        for name, array in results.items():
            self._stream.download(array, self._buffers[name][0])
        self._stream.synchronize()
        return results

    @property
    def inputs(self) -> Mapping[str, Tuple[int, ...]]:
        """Input shapes by name; a dynamic dimension reads -1."""
        return {name: tuple(self._engine.get_tensor_shape(name)) for name in self._inputs}

    def layers(self, feeds: Tensors, calls: int) -> Tuple[Layer, ...]:
        """Median time of each layer over `calls` calls, in an execution context of its own."""
        context, self._context = self._context, self._engine.create_execution_context()
        try:
            for name, (address, _) in self._buffers.items():
                self._context.set_tensor_address(name, address)
            times_ms = _tensorrt.profiled(self._trt, self._context, lambda: self(feeds), calls)
        finally:
            self._context = context
        return _tensorrt.timed(self._information(), ((name, median(ms)) for name, ms in times_ms.items()))

    def kernels(self) -> Tuple[Kernel, ...]:
        """Compute layers, as the engine inspector says."""
        return _tensorrt.kernels(self._information())

    def precision(self) -> Dict[str, int]:
        """Compute layers by type, as the engine inspector says."""
        return precisions(self.kernels())

    def close(self) -> None:
        """Free the GPU's memory."""
        self._stream.close()

    def _information(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = json.loads(_tensorrt.layers(self._trt, self._engine))
        return told

    def _empty(self, name: str) -> NDArray[Any]:
        kind = self._trt.nptype(self._engine.get_tensor_dtype(name))
        return np.empty(tuple(self._context.get_tensor_shape(name)), kind)

    def _bind(self, name: str, size: int) -> int:
        """Return the tensor's buffer, a larger one where it has outgrown the last."""
        address, held = self._buffers.get(name, (0, -1))
        if size > held:
            address = self._stream.allocate(size)
            self._buffers[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address


def _wanted() -> Tuple[str, ...]:
    """Modules that could build here, best first: full TensorRT only builds for a GPU that is there."""
    return ("tensorrt", *_tensorrt.RTX) if _cuda.gpus() else _tensorrt.RTX


def _missing() -> TargetError:
    return TargetError(
        "target gpu needs TensorRT: pip install '.[rtx]' builds engines without a GPU,"
        " '.[tensorrt]' builds for the GPU of this machine"
    )


def _write_layers(api: _tensorrt.Api, out: Path, engines: Mapping[str, str]) -> None:
    """Write what became of each layer, for the engine that this machine's GPU can load."""
    name = engines.get(_cuda.gpus()[0].capability)
    if name is None:
        return
    log = _tensorrt.messages(api.module)
    engine = api.module.Runtime(log.logger).deserialize_cuda_engine((out / name).read_bytes())
    if engine is None:
        raise TargetError(f"TensorRT cannot load the engine it built: {log.first()}")
    (out / LAYERS).write_text(_tensorrt.layers(api.module, engine))
