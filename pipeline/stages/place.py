"""Measured placement: what the target's device runs faster in float than in int8 stays in float."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from calibration.measured import Floats
from pipeline.core import PREVIOUS, Policy, Stage
from pipeline.measure import Meter
from pipeline.placing import Limits
from pipeline.progress import Progress
from pipeline.references import DataSpec
from pipeline.report.schema import MeasuredPlacement
from pipeline.stages.finetune import SOURCE
from pipeline.stages.qat import CALIBRATE
from pipeline.store import Artifact
from pipeline.tasks.base import Task
from targets.base import Target
from targets.devices.base import Device, Timing

POINT = 0.01
FIGURE = "placement"  # where the report finds what was tried


@dataclass(frozen=True, kw_only=True)
class Place(Limits, Stage):
    """Choose by timing on the device which parts run in int8; without it, the target's scheme decides alone."""

    after: ClassVar[tuple[str, ...]] = (PREVIOUS, CALIBRATE, SOURCE)  # calibrated, even where that was rejected
    uses: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "numpy")
    on_regression: ClassVar[Policy | None] = "reject"

    target: Target
    device: Device = field(metadata={"cache": False})  # where it is says nothing: what it is counts
    fingerprint: str  # of the device: what is fast on one says nothing of another
    runtime: Mapping[str, str] = field(metadata={"cache": False})  # versions there, which the fingerprint has too
    data: DataSpec
    task: Task
    timing: Timing
    allowed_drop: float  # points below the source, on validation
    why_not: str | None  # why nothing can be timed
    meter: Meter = field(metadata={"cache": False})  # of the fields above
    placement: Annotated[
        Literal["measured", "scheme"], Field(description="scheme: pairs wherever the target's scheme has them")
    ] = "measured"
    without_device: Annotated[
        Literal["error", "scheme"], Field(description="what to do where nothing can be timed")
    ] = "error"

    @classmethod
    def lacking(cls, options: Mapping[str, Any], why_not: str | None) -> str | None:
        """A device to time on."""
        if why_not is None or "scheme" in (options["placement"], options["without_device"]):
            return None
        return (
            f"placement: measured is timed on the device, and nothing can be timed here ({why_not});"
            " run it where that can be, or set without_device: scheme"
        )

    def versions(self) -> Mapping[str, str]:
        """Versions of the target's compiler and runtime too."""
        return {**super().versions(), **self.runtime}

    def code(self) -> tuple[str, ...]:
        """The target, the device and the task are found by name."""
        return tuple(type(found).__module__ for found in (self.target, self.device, self.task))

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the calibrated folder with `placement.json`; the float one where int8 is not faster than that."""
        from calibration.weights import FILE
        from pipeline import checkpoint
        from pipeline.lowering import RANGES, leave_out

        previous = inputs[PREVIOUS].path
        if self.placement == "scheme" or self.why_not:
            checkpoint.carry(previous, out)
            return
        calibrated = previous if (previous / RANGES).is_file() else inputs[CALIBRATE].path
        found = self._measured(calibrated, self._floor(inputs[SOURCE].path), progress)
        checkpoint.carry(calibrated if found.outcome in ("int8", "mixed") else previous, out)
        if found.outcome == "float":
            (out / RANGES).unlink(missing_ok=True)
            (out / FILE).unlink(missing_ok=True)
        if found.outcome == "mixed":
            leave_out(out, dict.fromkeys(found.floats, "measured placement"))
        info = checkpoint.Info.load(out)
        if info is not None:
            checkpoint.Info(info.params, info.macs, {FIGURE: found.model_dump()}).save(out)

    def _measured(self, calibrated: Path, least: float, progress: Progress) -> MeasuredPlacement:
        """Search on the device."""
        from pipeline import fingerprint
        from pipeline.bench import Spot, bench, network_in
        from pipeline.exporting import INPUT
        from pipeline.placing import RANKED, Wanted, race_timing, search, told

        meter, images = self.meter, self.data.load().calibration[:RANKED][0]
        calls = [{INPUT: images[i : i + 1]} for i in range(len(images))]
        spot = Spot(self.target, self.device, self.fingerprint, race_timing(self.timing))
        judged = {"data": self.data.version, "task": self.task, "code": fingerprint.code_behind(self.code())}
        asked = f"validation accuracy {fingerprint.of_value(judged)}"
        with bench(network_in(calibrated), spot, meter.store, calls[0]) as timed:

            def judge(floats: Floats) -> float:
                return timed.value(asked, floats, lambda built: self._accuracy(meter, built))

            wanted = Wanted(judge, least)
            return told(search(timed, wanted, calls, self, progress), wanted, timed.every)

    def _floor(self, source: Path) -> float:
        """The least accuracy on validation."""
        from pipeline.lowering import MODEL
        from pipeline.verdict import ROUNDING

        meter = self.meter.in_float32()
        built = meter.build(meter.lower(source / MODEL, None)).path
        return self._accuracy(meter, built) - POINT * (self.allowed_drop + ROUNDING)

    def _accuracy(self, meter: Meter, built: Path) -> float:
        return meter.metrics(built, "validation")[self.task.primary]["value"]
