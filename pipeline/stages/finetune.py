"""Training after pruning, or from scratch where the recipe gives no weights."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from pipeline.core import Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.store import Artifact
from pipeline.training.config import Training


@dataclass(frozen=True, kw_only=True)
class Finetune(Training, Stage):
    """Train the model; the epoch that is best on the validation split is kept."""

    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")
    resumable: ClassVar[bool] = True

    model: ModelSpec
    data: DataSpec

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the trained model's folder. Interrupted, the next run goes on after the last whole epoch."""
        from pipeline import checkpoint
        from pipeline.pruning.sparsity import hold
        from pipeline.training.loop import fit

        model, plans = checkpoint.load(inputs["previous"].path, self.model, self.data)
        zeroed = {name for plan in plans for name in plan.held}
        hold(model, {name: p.detach() != 0 for name, p in model.named_parameters() if name in zeroed})
        config = Training(**{f.name: getattr(self, f.name) for f in fields(Training)})
        epochs = out / "epochs"
        shutil.rmtree(out / "finished", ignore_errors=True)
        history = fit(model, self.data.load(), config, epochs, progress)
        best = history.epochs[history.best] if history.epochs else None
        figures = {
            "epochs": len(history.epochs),
            "best_epoch": history.best + 1 if best else 0,
            "validation_top1": best.validation.top1 if best else None,
            "loss": [epoch.loss for epoch in history.epochs],
        }
        checkpoint.save(out, model, plans, self.data, figures)
        finished = epochs.rename(out / "finished")  # in one step: half of it would not resume
        shutil.rmtree(finished)
