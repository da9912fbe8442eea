"""Low rank: layers whose weights nearly have it become successive smaller layers, where that is less work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.core import Policy, Stage
from pipeline.extras import missing
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.stages._rounding import Rounds
from pipeline.store import Artifact

if TYPE_CHECKING:
    from pipeline.lowrank.ranks import Ranks

ENERGY = 0.9  # where no rule is given


@dataclass(frozen=True)
class Factorize(Rounds, Stage):
    """Factorise linear layers and convolutions; ranks by one rule, `energy`, `vbmf` or `budget`."""

    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "tensorly", "scipy")
    on_regression: ClassVar[Policy | None] = "reject_slower"  # more layers can be slower; accuracy is for finetune

    model: ModelSpec
    data: DataSpec
    method: Annotated[
        Literal["auto", "svd", "tucker", "cp"],
        Field(description="two layers, three with a k×k between, four with separable ones; auto: svd or tucker"),
    ] = "auto"
    energy: Annotated[
        float | None, Field(ge=0, le=1, description="share of the squared weights that every layer keeps; 0.9 if alone")
    ] = None
    vbmf: Annotated[bool, Field(description="ranks by what variational Bayes takes for signal")] = False
    budget: Annotated[
        float | None, Field(gt=0, lt=1, description="share of the whole model that may stay: the largest such ranks")
    ] = None
    of: Annotated[Literal["macs", "params"], Field(description="what the budget is a share of")] = "macs"
    ignore: Annotated[tuple[str, ...], Field(description="module names that stay whole")] = ()
    round_to: Annotated[
        int | None, Field(ge=1, description="ranks go up to the next multiple of this; null: the target's")
    ] = None
    recalibrate: Annotated[
        int, Field(ge=0, description="train batches of 256 to re-estimate BatchNorm statistics on; 0: none")
    ] = 16
    seed: Annotated[int, Field(ge=0, description="of the batches for BatchNorm")] = 0
    align: int = 8  # the target's

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """More than one rule, and packages that are not installed."""
        rules = {
            "energy": options["energy"] is not None,
            "vbmf": options["vbmf"],
            "budget": options["budget"] is not None,
        }
        given = [name for name, there in rules.items() if there]
        if len(given) > 1:
            return f"{' and '.join(given)} are rules for the same ranks; give one of them"
        return missing("factorize", "lowrank", "tensorly", "scipy") or None

    @property
    def ranks(self) -> "Ranks":
        """The rule."""
        from pipeline.lowrank import Budget, Energy, Vbmf

        if self.budget is not None:
            return Budget(self.budget, self.of)
        return Vbmf() if self.vbmf else Energy(ENERGY if self.energy is None else self.energy)

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the factorised model's folder, its plan and what became of every layer.

        Layers that an earlier stage set single weights of to zero stay whole: their factors would have none.
        """
        from pipeline import checkpoint
        from pipeline.lowrank import factorize
        from pipeline.lowrank.engine import figures
        from pipeline.training.batchnorm import recalibrate

        model, plans = checkpoint.load(inputs["previous"].path, self.model, self.data)
        data = self.data.load()
        held = {name for plan in plans for name in plan.held} & dict(model.named_parameters()).keys()
        with progress.bar("factorize and prove", 2) as bar:
            result = factorize(
                model,
                (checkpoint.example_of(self.data, 1),),  # the multiply-accumulates that it tells are of one sample
                method=self.method,
                ranks=self.ranks,
                ignore=(*self.ignore, *sorted(held)),
                round_to=self.round_to or 1,
            )
            bar.advance()
            if self.recalibrate:
                recalibrate(result.model, data.train, self.recalibrate, seed=self.seed)
            bar.advance()
        told = {"method": self.method, "ranks": str(self.ranks), **figures(result)}
        steps = [*plans, *([result.plan] if result.plan.layers else [])]
        checkpoint.save(out, result.model, steps, self.data, told)
