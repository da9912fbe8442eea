"""Structured pruning on the traced graph: whole channels leave, and the result is proved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline import plugins
from pipeline.core import Stage
from pipeline.errors import UserError
from pipeline.fingerprint import of_file
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.report.layers import FIGURE
from pipeline.store import Artifact


@dataclass(frozen=True)
class Prune(Stage):
    """Remove the least important channels of every coupled group, and whatever else the granularity names."""

    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")

    model: ModelSpec
    data: DataSpec
    ratio: Annotated[float, Field(ge=0, lt=1, description="share to remove")] = 0.5
    of: Annotated[Literal["channels", "macs", "params", "bytes"], Field(description="what the ratio is a share of")] = (
        "channels"
    )
    granularity: Annotated[
        tuple[Literal["filter", "stage", "head", "block", "layer", "weight"], ...],
        Field(description="what may go: channels of one layer, of a residual stage, heads, whole modules, weights"),
    ] = ("filter", "stage", "head")
    pattern: Annotated[str | None, Field(description="N:M, for granularity weight: N of every M inputs stay")] = None
    criterion: Annotated[
        str, plugins.named("pipeline.pruning.criteria"), Field(description="what makes a channel important")
    ] = "l1"
    scope: Annotated[
        Literal["local", "isomorphic", "global", "energy", "pfa_kl", "sensitivity"],
        Field(
            description="local: the same ratio in every group; isomorphic, global: one ranking, of like groups or all; "
            "energy, pfa_kl: by eigenvalues, for criterion pfa; sensitivity: by measured curves"
        ),
    ] = "local"
    sensitivity: Annotated[
        str | None,
        Field(description="the curves for that scope: the sensitivity.json that edgesmith sensitivity wrote"),
    ] = field(default=None, metadata={"cache": False})
    sensitivity_sha256: str = field(default="", init=False)
    round_to: Annotated[
        int | None, Field(ge=1, description="kept widths go to the nearest multiple of this; null: the target's")
    ] = None
    min_width: Annotated[int, Field(ge=1, description="no group gets narrower than this")] = 8
    form: Annotated[
        Literal["module", "graph"],
        Field(description="module: your module is cut; graph: the captured graph, whose written sizes can change"),
    ] = "module"
    dead: Annotated[bool, Field(description="first remove channels that are zero already, without any change")] = False
    ignore: Annotated[tuple[str, ...], Field(description="module names that keep their channels")] = ()
    recalibrate: Annotated[
        int, Field(ge=0, description="train batches of 256 to re-estimate BatchNorm statistics on; 0: none")
    ] = 16
    seed: Annotated[int, Field(ge=0, description="of the batches for BatchNorm")] = 0
    align: int = 8  # the target's

    def __post_init__(self) -> None:
        """Settle the multiple; a recipe that gives one is cut alike for all targets, and shares the result."""
        object.__setattr__(self, "round_to", self.round_to or self.align)
        object.__setattr__(self, "align", 1)
        if self.sensitivity is not None and Path(self.sensitivity).is_file():
            object.__setattr__(self, "sensitivity_sha256", of_file(Path(self.sensitivity)))

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """Curves are there where the scope is by them, and nowhere else."""
        given = options["sensitivity"]
        if options["scope"] == "sensitivity" and (given is None or not Path(given).is_file()):
            return f"sensitivity: {given} is no file, and scope needs its curves; `edgesmith sensitivity` writes one"
        if options["scope"] != "sensitivity" and given is not None:
            return "sensitivity: is for scope sensitivity alone; set that, or leave it out"
        return None

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
        from pipeline.pruning import prune, remove_dead
        from pipeline.pruning.layers import compare
        from pipeline.training.batchnorm import recalibrate

        model, plans = checkpoint.load(inputs["previous"].path, self.model, self.data)
        data = self.data.load()
        x = torch.from_numpy(data.calibration[: checkpoint.CHECKED_SAMPLES][0])
        original, pair = model, (checkpoint.example_of(self.data),)
        remains: tuple[str, ...] = ()
        with progress.bar("prune and prove", 2 + self.dead) as bar:
            if self.dead:
                emptied = remove_dead(model, pair, (x,))
                model, remains = emptied.model, emptied.kept
                plans = [*plans, emptied.plan]
                bar.advance()
            result = prune(
                model,
                pair,
                ratio=self.ratio,
                target="ratio" if self.of == "channels" else self.of,
                granularity=self.granularity,
                pattern=self.pattern,
                criterion=self.criterion,
                scope=self.scope,
                sensitivity=self.sensitivity,
                round_to=self.round_to,
                min_width=self.min_width,
                ignore=self.ignore,
                form=self.form,
                real_inputs=(x,),
            )
            if result.batch is not None:
                raise UserError(
                    f"prune: the model's graph runs on batches of {result.batch} only; set form: module, "
                    "or make its forward take any batch"
                )
            bar.advance()
            if self.recalibrate:
                recalibrate(result.model, data.train, self.recalibrate, seed=self.seed)
            bar.advance()
        figures = {
            "share_of": self.of,
            "requested_ratio": result.requested,
            "achieved_ratio": result.achieved,
            "proof_max_rel_error": result.proof.max_rel_error,
            "frozen": {op: list(names) for op, names in result.frozen.items()},
            **({"sparsity": result.sparsity.achieved} if result.sparsity else {}),
            **({"dead_channels_kept": list(remains)} if remains else {}),
            FIGURE: compare(original, result.model, (x[:1],)).figure(),
        }
        checkpoint.save(out, result.model, [*plans, result.plan], self.data, figures)
