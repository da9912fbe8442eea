"""Structured pruning on the traced graph: whole channels leave, and the result is proved."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline import plugins
from pipeline.core import Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.report.layers import FIGURE
from pipeline.store import Artifact


@dataclass(frozen=True)
class Prune(Stage):
    """Remove the least important channels of every coupled group."""

    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")

    model: ModelSpec
    data: DataSpec
    ratio: Annotated[float, Field(ge=0, lt=1, description="share to remove")] = 0.5
    of: Annotated[Literal["channels", "macs", "params"], Field(description="what the ratio is a share of")] = "channels"
    criterion: Annotated[
        str, plugins.named("pipeline.pruning.criteria"), Field(description="what makes a channel important")
    ] = "l1"
    scope: Annotated[
        Literal["local", "global"],
        Field(description="local: the same ratio in every group; global: one ranking over all groups"),
    ] = "local"
    round_to: Annotated[int, Field(ge=1, description="kept widths go to the nearest multiple of this")] = 8
    min_width: Annotated[int, Field(ge=1, description="no group gets narrower than this")] = 8
    ignore: Annotated[tuple[str, ...], Field(description="module names that keep their channels")] = ()
    recalibrate: Annotated[
        int, Field(ge=0, description="train batches of 256 to re-estimate BatchNorm statistics on; 0: none")
    ] = 16
    seed: Annotated[int, Field(ge=0, description="of the batches for BatchNorm")] = 0

    def code(self) -> tuple[str, ...]:
        """The criterion is found by name."""
        return (
            plugins.module_of("pipeline.pruning.criteria", self.criterion),
            *plugins.modules("pipeline.pruning.rules"),
        )

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the pruned model's folder, `plan.json` and the proof's figures."""
        import torch

        from pipeline import checkpoint
        from pipeline.pruning import prune
        from pipeline.pruning.layers import compare
        from pipeline.training.batchnorm import recalibrate

        model, plans = checkpoint.load(inputs["previous"].path, self.model)
        data = self.data.load()
        x = torch.from_numpy(data.calibration[: checkpoint.CHECKED_SAMPLES][0])
        with progress.bar("prune and prove", 2) as bar:
            result = prune(
                model,
                (x[:2],),  # two samples: a batch size written into the forward shows
                ratio=self.ratio,
                target="ratio" if self.of == "channels" else self.of,
                criterion=self.criterion,
                scope=self.scope,
                round_to=self.round_to,
                min_width=self.min_width,
                ignore=self.ignore,
                real_inputs=(x,),
            )
            bar.advance()
            if self.recalibrate:
                recalibrate(result.model, data.train, self.recalibrate, seed=self.seed)
            bar.advance()
        figures = {
            "share_of": self.of,
            "requested_ratio": self.ratio,
            "achieved_ratio": result.achieved,
            "proof_max_rel_error": result.proof.max_rel_error,
            "frozen": {op: list(names) for op, names in result.frozen.items()},
            FIGURE: compare(model, result.model, (x[:1],)).figure(),
        }
        checkpoint.save(out, result.model, [*plans, result.plan], self.data, figures)
