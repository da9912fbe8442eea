"""Static int8 calibration: run samples through the float ONNX graph and keep what its tensors held."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from pipeline import plugins
from pipeline.core import Policy, Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec
from pipeline.store import Artifact


@dataclass(frozen=True, kw_only=True)
class Calibrate(Stage):
    """Observe once; every target places its own Q/DQ pairs from the one `ranges.json`."""

    uses: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "numpy")
    on_regression: ClassVar[Policy | None] = "reject"  # int8 that is slower or too inaccurate here does not ship

    data: DataSpec
    observer: Annotated[str, plugins.named("calibration.observers"), Field(description="how ranges are chosen")] = (
        "percentile"
    )
    options: Annotated[dict[str, float], Field(description="the observer's own, e.g. {percentile: 99.99}")] = field(
        default_factory=dict
    )
    samples: Annotated[int, Field(ge=1, description="of the calibration split")] = 512

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """Options that the observer does not have."""
        from calibration import observers
        from calibration.errors import CalibrationError

        try:
            observers.make(options["observer"], **options["options"])
        except CalibrationError as error:
            return str(error)
        return None

    def code(self) -> tuple[str, ...]:
        """The observer is found by name."""
        return (plugins.module_of("calibration.observers", self.observer),)

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the previous model's folder and `ranges.json`."""
        from pipeline import checkpoint
        from pipeline.calibrating import observe

        checkpoint.carry(inputs["previous"].path, out)
        split = self.data.load().calibration
        total = min(self.samples, len(split))
        model = out / "model.onnx"
        ranges = observe(model, lambda index: split[index][0], total, self.observer, self.options, progress)
        ranges.save(out / "ranges.json")
