"""TensorRT on NVIDIA Jetson: the engine is built and run on the board; without one, a bundle to build there."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

from targets.backends import _bundle, _caches, _cuda, _engines, _tensorrt, _trtexec, _trtlogs
from targets.backends._trtexec import Trtexec
from targets.backends._trtrunner import TrtexecRunner
from targets.backends.gpu import TENSORRT_INT8, EngineRunner
from targets.base import Int8Scheme, Kernel, NoDeviceError, Target, TargetError
from targets.board import modes
from targets.fingerprint import tegra_module

if TYPE_CHECKING:
    from targets.base import Runner
    from targets.devices.base import Fingerprint

ONNX, ENGINE, MANIFEST, LAYERS, CACHE = "model.onnx", "model.engine", "engine.json", "layers.json", "timing.cache"
CORES = (None, 0, 1)
Tool = Union[_tensorrt.Api, Trtexec]


@dataclass(frozen=True)
class Jetson(Target):
    """Build an engine on the board, with its `tensorrt` package, or with trtexec where that is all there is.

    Elsewhere write a bundle: the ONNX file with explicit Q/DQ, a build script for the board, and how to use both;
    an engine runs only on the kind of GPU and the TensorRT that built it. `dla` names one of an Orin's or
    Xavier's accelerators, 0 or 1; what it cannot run goes to the GPU and is listed.
    """

    dla: Optional[int] = None

    scheme: ClassVar[Int8Scheme] = TENSORRT_INT8
    uses: ClassVar[Tuple[str, ...]] = ()  # what there is depends on the machine: see versions
    extra: ClassVar[Optional[str]] = "rtx"
    remote: ClassVar[bool] = True
    align: ClassVar[int] = 16  # int8 tensor cores load 128 bits (cutlass#75): 16 channels

    def __post_init__(self) -> None:
        if self.dla not in CORES:
            raise TargetError(f"target jetson: dla must be 0 or 1, got {self.dla!r}")

    def versions(self) -> Dict[str, str]:
        """Version of what builds here: `tensorrt` or `trtexec` on a board, elsewhere the parser, if there is one."""
        tool = tool_here()
        if tool is not None:
            return {"trtexec" if isinstance(tool, Trtexec) else tool.name: _version(tool)}
        return _tensorrt.installed("tensorrt", *_tensorrt.RTX)

    def build(self, onnx: Path, out: Path) -> None:
        """On a board write model.engine, engine.json, layers.json and timing.cache; elsewhere the bundle."""
        tool = tool_here()
        if tool is None:
            _bundle.write(onnx, out, self.dla)
        elif isinstance(tool, Trtexec):
            self._with_trtexec(tool, onnx, out)
        else:
            self._with_python(tool, onnx, out)

    @contextmanager
    def open(self, built: Path) -> Iterator[Runner]:
        """Load the engine. Raises NoDeviceError where there is none, or none of its kind can run here."""
        if not (built / ENGINE).is_file():
            raise NoDeviceError(f"not compiled: no device; run {built / 'build.sh'} on the Jetson")
        tool = tool_here()
        if tool is None:
            raise NoDeviceError("no device: this machine is no Jetson with TensorRT")
        told = json.loads((built / MANIFEST).read_text())
        if told["version"] != _version(tool):
            raise TargetError(
                f"{built / ENGINE} was built with TensorRT {told['version']}, here is {_version(tool)}: build it again"
            )
        notes = _off_the_dla(told["on_gpu"])
        if isinstance(tool, Trtexec):
            yield TrtexecRunner(tool, built, notes)
            return
        runner = EngineRunner(tool.module, built / ENGINE, notes)
        try:
            yield runner
        finally:
            runner.close()

    def shipped(self, built: Path) -> Tuple[Path, ...]:
        """The engine; the ONNX file until there is one."""
        engine = built / ENGINE
        return (engine if engine.is_file() else built / ONNX,)

    def compiled(self, built: Path) -> Optional[Tuple[Kernel, ...]]:
        """The compute layers that the builder exported."""
        path = built / LAYERS
        return _tensorrt.kernels(json.loads(path.read_text())) if path.is_file() else None

    def runs_here(self) -> Optional[str]:
        """Return why not: without a board the bundle is no engine."""
        return None if tool_here() is not None else "not compiled: no device"

    def is_native(self, device: Fingerprint) -> bool:
        """Whether `device` is a Jetson."""
        return device.machine == "aarch64" and device.accelerator.startswith("NVIDIA Tegra")

    def _with_python(self, api: _tensorrt.Api, onnx: Path, out: Path) -> None:
        gpu = _cuda.gpus()[0].capability
        kept = self._cache(api.version, gpu)
        begun = _caches.load(kept)
        made = _engines.build(api, _engines.Wish(onnx, dla=self.dla, cache=begun))
        (out / ENGINE).write_bytes(made.serialized)
        (out / CACHE).write_bytes(made.cache)
        runtime = api.module.Runtime(_tensorrt.messages(api.module).logger)
        engine = runtime.deserialize_cuda_engine(made.serialized)
        if engine is None:
            raise TargetError(f"TensorRT {api.version} cannot load the engine it built of {onnx}")
        (out / LAYERS).write_text(_tensorrt.layers(api.module, engine))
        _caches.save(kept, made.cache)
        flags = ("int8",) if _trtexec.quantized(onnx) else ()
        self._write(out, onnx, api, begun, {"capability": gpu, "flags": flags, "on_gpu": made.on_gpu})

    def _with_trtexec(self, tool: Trtexec, onnx: Path, out: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:  # trtexec takes names with commas and colons apart
            folder = Path(scratch)
            shutil.copyfile(onnx, folder / ONNX)
            kept = self._cache(tool.name, "")
            begun = _caches.load(kept)
            if begun:
                (folder / CACHE).write_bytes(begun)
            build = _trtexec.Build(Path(ONNX), Path(ENGINE), Path(CACHE), Path(LAYERS), self.dla)
            arguments = _trtexec.build_arguments(tool, build, _trtexec.quantized(onnx))
            said = _trtexec.run(tool, arguments, folder)
            for name in (ENGINE, LAYERS, CACHE):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, out / name)
        if not (out / ENGINE).is_file():
            raise TargetError(f"trtexec {tool.name} says that it passed, and wrote no engine of {onnx}")
        (out / "build.log").write_text(said)
        if (out / CACHE).is_file():
            _caches.save(kept, (out / CACHE).read_bytes())
        _, on_gpu = _trtlogs.units(said) if self.dla is not None else ((), ())
        told = {"capability": _trtlogs.capability(said), "flags": arguments, "on_gpu": on_gpu}
        self._write(out, onnx, tool, begun, told)

    def _cache(self, version: str, capability: str) -> Path:
        dla = "" if self.dla is None else f"dla{self.dla}"
        return _caches.path_of(version, capability, str(modes.current() or ""), dla)

    def _write(self, out: Path, onnx: Path, tool: Tool, begun: bytes, told: Mapping[str, object]) -> None:
        """Write everything that the engine depends on."""
        manifest = {
            "schema": "edgesmith.engine/1",
            "builder": "trtexec" if isinstance(tool, Trtexec) else tool.name,
            "version": _version(tool),
            "onnx_sha256": _caches.digest(onnx.read_bytes()),
            "engine_sha256": _caches.digest((out / ENGINE).read_bytes()),
            "power_mode": str(modes.current() or ""),
            "dla": self.dla,
            "timing_cache": {
                "begun_sha256": _caches.digest(begun),
                "sha256": _caches.digest((out / CACHE).read_bytes()) if (out / CACHE).is_file() else "",
            },
            **told,
        }
        (out / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def tool_here() -> Optional[Tool]:
    """What builds engines on this machine: its `tensorrt` package, else its trtexec; None off a Jetson.

    The environment variable TRTEXEC names a trtexec, and makes any machine count as a board.
    """
    named = _trtexec.named()
    if not named and not tegra_module():
        return None
    if not named and _cuda.gpus():
        api = _tensorrt.find("tensorrt")
        if api is not None:
            return api
    return _trtexec.find()


def _off_the_dla(layers: Sequence[str]) -> Tuple[str, ...]:
    """What the report says of layers that a DLA cannot run."""
    return (f"the DLA leaves to the GPU what it cannot run: {'; '.join(layers)}",) if layers else ()


def _version(tool: Tool) -> str:
    return tool.name if isinstance(tool, Trtexec) else tool.version
