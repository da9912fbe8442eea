"""Training after pruning, or from scratch where the recipe gives no weights."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from pipeline.core import PREVIOUS, Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.store import Artifact
from pipeline.training.config import Distillation, Training, unready

if TYPE_CHECKING:
    from torch import nn

    from pipeline.training.distill import Distilled

SOURCE = "source"  # the stage whose result teaches


@dataclass(frozen=True, kw_only=True)
class Finetune(Training, Stage):
    """Train the model; the epoch that is best on the validation split is kept."""

    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")
    resumable: ClassVar[bool] = True

    model: ModelSpec
    data: DataSpec
    distill: Annotated[Distillation | None, Field(description="learn from the source model too; null: do not")] = None

    from_scratch: Annotated[
        bool, Field(description="draw the weights anew: the rival that the pruned weights must beat at equal compute")
    ] = False

    def reads(self) -> tuple[str, ...]:
        """The teacher is read where there is one."""
        return (PREVIOUS, SOURCE) if self.distill else (PREVIOUS,)

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """Packages that are not installed."""
        return unready(options["devices"]) or None

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the trained model's folder. Interrupted, the next run goes on after the last whole epoch."""
        from pipeline import checkpoint
        from pipeline.training.device import resolve_count
        from pipeline.training.loop import fit

        model, plans = checkpoint.load(inputs[PREVIOUS].path, self.model, self.data)
        self._prepare(model, {name for plan in plans for name in plan.held})
        config = Training(**{f.name: getattr(self, f.name) for f in fields(Training)})
        epochs = out / "epochs"
        shutil.rmtree(out / "finished", ignore_errors=True)
        objective = self._distilled(self.distill, config, model, inputs[SOURCE]) if self.distill else None
        history = fit(model, self.data.load(), config, epochs, progress, objective)
        figures = {
            **history.figures(),
            "devices": resolve_count(self.devices, self.accelerator),
            **({"taps": [tap.name for tap in objective.taps]} if objective else {}),
            **({"from_scratch": True} if self.from_scratch else {}),
        }
        checkpoint.save(out, model, plans, self.data, figures)
        finished = epochs.rename(out / "finished")  # in one step: half of it would not resume
        shutil.rmtree(finished)

    def _prepare(self, model: "nn.Module", zeroed: Collection[str]) -> None:
        """Draw weights anew if that is asked for, and see to it that those put to zero stay there."""
        from pipeline.pruning.sparsity import hold
        from pipeline.training.scratch import keep_zeros, reinitialise

        mask = {name: p.detach() != 0 for name, p in model.named_parameters() if name in zeroed}
        if self.from_scratch:
            reinitialise(model, self.seed)
            keep_zeros(model, mask)
        hold(model, mask)

    def _distilled(
        self, settings: Distillation, config: Training, student: "nn.Module", source: Artifact
    ) -> "Distilled":
        """Return the objective whose teacher is the model as it came."""
        from pipeline import checkpoint
        from pipeline.training.distill import Distilled

        teacher, _ = checkpoint.load(source.path, self.model, self.data)
        return Distilled(settings, config, student, teacher, checkpoint.example_of(self.data))
