"""TensorRT on NVIDIA Jetson: without a board, everything that building on one takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Dict, Optional, Tuple

from targets.backends import _tensorrt
from targets.backends.gpu import TENSORRT_INT8
from targets.base import Int8Scheme, NoDeviceError, Target

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from targets.base import Runner
    from targets.devices.base import Fingerprint

FILES = Path(__file__).with_name("_jetson")


@dataclass(frozen=True)
class Jetson(Target):
    """Write a bundle: the ONNX file with explicit Q/DQ, a build script for the board, and how to use both.

    Engines cannot be built off the board: TensorRT for RTX has no SM87, and TensorRT builds for the GPU it
    runs on. The file is parsed with TensorRT's own ONNX parser where one is installed.
    """

    scheme: ClassVar[Int8Scheme] = TENSORRT_INT8
    uses: ClassVar[Tuple[str, ...]] = ()  # the parser is optional: see versions
    extra: ClassVar[Optional[str]] = "rtx"
    remote: ClassVar[bool] = True
    align: ClassVar[int] = 16  # int8 tensor cores load 128 bits (cutlass#75): 16 channels

    def versions(self) -> Dict[str, str]:
        """Version of the parser that checks the bundle, if one is installed."""
        return _tensorrt.installed("tensorrt", *_tensorrt.RTX)

    def build(self, onnx: Path, out: Path) -> None:
        """Write model.onnx, build.sh, README.md and check.txt, which says what parsed the model."""
        checked = _tensorrt.check(onnx)
        shutil.copyfile(onnx, out / "model.onnx")
        shutil.copyfile(FILES / "build.sh", out / "build.sh")
        (out / "build.sh").chmod(0o755)
        shutil.copyfile(FILES / "README.md", out / "README.md")
        (out / "check.txt").write_text(checked + "\n")

    def open(self, built: Path) -> AbstractContextManager[Runner]:
        """Raise NoDeviceError: the engine is built on the board."""
        raise NoDeviceError(f"not compiled: no device; run {built / 'build.sh'} on the Jetson")

    def shipped(self, built: Path) -> Tuple[Path, ...]:
        """The ONNX file, until there is an engine."""
        return (built / "model.onnx",)

    def runs_here(self) -> Optional[str]:
        """Return why not: the bundle is no engine."""
        return "not compiled: no device"

    def is_native(self, device: Fingerprint) -> bool:
        """Whether `device` is a Jetson."""
        return device.machine == "aarch64" and device.accelerator.startswith("NVIDIA Tegra")
