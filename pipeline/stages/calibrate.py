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
from pipeline.weight_options import WeightOptions


@dataclass(frozen=True, kw_only=True)
class Calibrate(Stage):
    """Observe once; every target places its own Q/DQ pairs from the one `ranges.json`, and shares int8 weights."""

    uses: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "numpy", "safetensors")
    on_regression: ClassVar[Policy | None] = "reject"  # int8 that is slower or too inaccurate here does not ship

    data: DataSpec
    observer: Annotated[str, plugins.named("calibration.observers"), Field(description="how ranges are chosen")] = (
        "percentile"
    )
    options: Annotated[dict[str, float], Field(description="the observer's own, e.g. {percentile: 99.99}")] = field(
        default_factory=dict
    )
    samples: Annotated[int, Field(ge=1, description="of the calibration split")] = 512
    weights: Annotated[WeightOptions, Field(description="how int8 weights are chosen")] = field(
        default_factory=WeightOptions
    )

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
        """Write the previous model's folder, `ranges.json`, and `int8.safetensors` where weights are chosen."""
        from calibration.weights import FILE
        from pipeline import checkpoint
        from pipeline.calibrating import Samples, choose_weights, equalize, observe

        checkpoint.carry(inputs["previous"].path, out)
        split = self.data.load().calibration
        samples = Samples(lambda index: split[index][0], min(self.samples, len(split)))
        model = out / "model.onnx"
        figures: dict[str, Any] = {}
        if self.weights.equalize:
            figures["equalized"] = equalize(model, model, samples, self.weights, progress)
        observe(model, samples, self.observer, self.options, progress).save(out / "ranges.json")
        chosen = choose_weights(model, samples, self.weights, progress)
        if chosen is not None:
            chosen.weights.save(out / FILE)
            figures["int8_weights"] = dict(chosen.weights.methods)
        info = checkpoint.Info.load(out)
        if info is not None and figures:
            checkpoint.Info(info.params, info.macs, {**info.figures, **figures}).save(out)
