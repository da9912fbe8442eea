"""The target's own compiler, run on the device."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.core import Policy, Stage
from pipeline.progress import Progress
from pipeline.store import Artifact
from targets.base import Target
from targets.devices.base import Device

MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Compile(Stage):
    """Build the exported ONNX file for the target."""

    on_regression: ClassVar[Policy | None] = None  # it builds what was accepted before it

    target: Target
    device: Device = field(metadata={"cache": False})  # where it is says nothing: what it is counts
    fingerprint: str  # of the device: engines and blobs are made for one machine
    runtime: Mapping[str, str] = field(metadata={"cache": False})  # versions there, which the fingerprint has too

    def versions(self) -> Mapping[str, str]:
        """Versions of the target's compiler and runtime."""
        return self.runtime

    def code(self) -> tuple[str, ...]:
        """The target and the device are found by name."""
        return (type(self.target).__module__, type(self.device).__module__)

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the deployable files into `model/`."""
        source = inputs["previous"].path
        with progress.bar(f"compile for {self.target.name()}", 1) as bar:
            (out / MODEL).mkdir(exist_ok=True)
            self.device.build(self.target, source / "model.onnx", out / MODEL)
            bar.advance()
        if (source / "info.json").is_file():
            shutil.copyfile(source / "info.json", out / "info.json")
