"""Quantization-aware training: what calibration lost, trained back with int8 rounding in the loop."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from pipeline.core import Policy, Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.stages.finetune import SOURCE
from pipeline.store import Artifact
from pipeline.training.config import Distillation, Precision, Training, unready

if TYPE_CHECKING:
    from pipeline.training.objective import Objective
    from pipeline.training.onnx_graph import QuantizedGraph

CALIBRATE = "calibrate"


@dataclass(frozen=True, kw_only=True)
class Qat(Training, Stage):
    """Train the calibrated network as the target's int8 will compute it; for what calibration alone lost too much."""

    after: ClassVar[tuple[str, ...]] = (CALIBRATE,)  # even where its result was rejected
    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx")
    resumable: ClassVar[bool] = True
    on_regression: ClassVar[Policy | None] = "reject"

    model: ModelSpec
    data: DataSpec
    scheme: Mapping[str, Any]  # the fields of the target's Int8Scheme
    epochs: Annotated[int, Field(ge=0, description="passes; what is best on validation is kept")] = 3
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False, description="learning rate at its peak")] = 0.005
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False, description="epochs of rising rate")] = 0.25
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False, description="of every parameter")] = 0.0
    precision: Annotated[Precision, Field(description="f32 rounds as the int8 kernels will")] = "f32"
    ranges: Annotated[bool, Field(description="whether ranges are trained too; false: they stay as calibrated")] = True
    distill: Annotated[Distillation | None, Field(description="learn from the source model too; null: do not")] = field(
        default_factory=Distillation
    )

    def reads(self) -> tuple[str, ...]:
        """The teacher is read where there is one."""
        return (CALIBRATE, SOURCE) if self.distill else (CALIBRATE,)

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """Packages that are not installed."""
        return unready(options["devices"]) or None

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the trained float model and its ranges; what was calibrated, where no epoch came up to that.

        Interrupted, the next run goes on after the last epoch.
        """
        import onnx

        from calibration.weights import FILE
        from pipeline import checkpoint, lowering
        from pipeline.training.evaluate import evaluate
        from pipeline.training.loop import fit

        before = inputs[CALIBRATE].path
        shutil.rmtree(out / "finished", ignore_errors=True)
        graph = self._graph(before)
        config = Training(**{f.name: getattr(self, f.name) for f in fields(Training)})
        data = self.data.load()
        start = evaluate(graph, data.validation)
        history = fit(graph, data, config, out / "epochs", progress, self._objective(config, graph, inputs))
        figures = {"calibrated_top1": start.top1, **history.figures()}
        checkpoint.carry(before, out)
        if history.epochs and history.epochs[history.best].validation.top1 < start.top1:
            figures |= {"best_epoch": 0, "validation_top1": start.top1}
        else:
            model, ranges = graph.trained()
            (out / FILE).unlink(missing_ok=True)  # chosen for the weights as they were
            onnx.save(model, out / lowering.MODEL)
            ranges.save(out / lowering.RANGES)
        info = checkpoint.Info.load(before)
        if info is not None:
            checkpoint.Info(info.params, info.macs, figures).save(out)
        finished = (out / "epochs").rename(out / "finished")  # in one step: half of it would not resume
        shutil.rmtree(finished)

    def _graph(self, folder: Path) -> "QuantizedGraph":
        """Return what to train."""
        import onnx

        from calibration.ranges import Ranges
        from pipeline import checkpoint, lowering
        from pipeline.training.onnx_graph import QuantizedGraph
        from targets.base import Int8Scheme

        model, ranges = onnx.load(folder / lowering.MODEL), Ranges.load(folder / lowering.RANGES)
        graph = QuantizedGraph(model, ranges, Int8Scheme(**self.scheme), learned=self.ranges)
        graph.hold_zeros({name for plan in checkpoint.plans_in(folder) for name in plan.held})
        return graph

    def _objective(
        self, config: Training, graph: "QuantizedGraph", inputs: Mapping[str, Artifact]
    ) -> "Objective | None":
        """Return what to descend: None for cross entropy alone."""
        from pipeline import checkpoint
        from pipeline.training.distill import Distilled

        if self.distill is None:
            return None
        teacher, _ = checkpoint.load(inputs[SOURCE].path, self.model, self.data)
        return Distilled(self.distill, config, graph, teacher, checkpoint.example_of(self.data))
