"""Structured pruning on the traced graph: whole channels leave, and the result is proved."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline import plugins
from pipeline.core import Stage
from pipeline.fingerprint import of_file
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.report.layers import FIGURE
from pipeline.stages._rounding import Rounds
from pipeline.store import Artifact
from pipeline.training.config import unready
from pipeline.training.stepwise import Schedule

if TYPE_CHECKING:
    from torch import nn

    from pipeline.cutting import Cutter
    from pipeline.plans import ModelPlan
    from pipeline.stepwise import State

    Told = tuple[nn.Module, list[ModelPlan], dict[str, Any]]

TAKEN = (
    *("ratio", "granularity", "pattern", "criterion", "criterion_options"),
    *("scope", "sensitivity", "round_to", "min_width", "ignore", "form", "reconstruct"),
)  # what goes to the engine as it is
STEPS = "steps"  # folder of the steps that are done


@dataclass(frozen=True)
class Prune(Rounds, Stage):
    """Remove the least important channels of every coupled group, and whatever else the granularity names."""

    uses: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript")
    resumable: ClassVar[bool] = True

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
    criterion_options: Annotated[
        dict[str, Any], Field(description="of the criterion; edgesmith criteria lists them")
    ] = field(default_factory=dict)
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
    reconstruct: Annotated[
        bool, Field(description="fit the weights that read pruned channels anew, by least squares on the samples")
    ] = False
    recalibrate: Annotated[
        int, Field(ge=0, description="train batches of 256 to re-estimate BatchNorm statistics on; 0: none")
    ] = 16
    samples: Annotated[
        int,
        Field(ge=1, description="train images that a criterion which goes by data scores on, and weights are fit to"),
    ] = 256
    seed: Annotated[int, Field(ge=0, description="of the choice of these images, and of those for BatchNorm")] = 0
    schedule: Annotated[
        Schedule | None, Field(description="prune in steps, with training between them; null: at once")
    ] = None
    align: int = 8  # the target's

    def __post_init__(self) -> None:
        """Settle the multiple, and which curves the file has: the result depends on them, not on its path."""
        super().__post_init__()
        if self.sensitivity is not None and Path(self.sensitivity).is_file():
            object.__setattr__(self, "sensitivity_sha256", of_file(Path(self.sensitivity)))

    def code(self) -> tuple[str, ...]:
        """The criterion is found by name."""
        return (
            plugins.module_of("pipeline.pruning.criteria", self.criterion),
            *plugins.modules("pipeline.pruning.rules"),
        )

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """Options that do not go together."""
        return _wrong_curves(options) or _wrong_schedule(options)

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the pruned model's folder, `plan.json` and the proof's figures."""
        from pipeline import checkpoint
        from pipeline.pruning.layers import compare
        from pipeline.stepwise import Stepwise

        model, plans = checkpoint.load(inputs["previous"].path, self.model, self.data)
        cutter = self._cutter(progress)
        original = model
        figures: dict[str, Any] = {}
        if self.dead:
            model, plans, figures = self._emptied(model, plans, cutter)
        if self.schedule is None:
            model, plans, told = self._at_once(model, plans, cutter)
        else:
            run = Stepwise(self.schedule, cutter, self.model, self.data, out / STEPS, progress)
            model, plans, told = self._summed(run(model, plans, self.ratio))
        cut = compare(original, model, (cutter.real[:1],)).figure()
        checkpoint.save(out, model, plans, self.data, {"share_of": self.of, **told, **figures, FIGURE: cut})
        shutil.rmtree(out / STEPS, ignore_errors=True)

    def _cutter(self, progress: Progress) -> "Cutter":
        import torch

        from pipeline import checkpoint
        from pipeline.cutting import Cutter

        data = self.data.load()
        target = "ratio" if self.of == "channels" else self.of
        return Cutter(
            settings={**{name: getattr(self, name) for name in TAKEN}, "target": target},
            data=data,
            example=checkpoint.example_of(self.data),
            real=torch.from_numpy(data.calibration[: checkpoint.CHECKED_SAMPLES][0]),
            scored_on=self.samples,
            recalibrated_on=self.recalibrate,
            seed=self.seed,
            progress=progress,
        )

    @staticmethod
    def _emptied(model: "nn.Module", plans: "list[ModelPlan]", cutter: "Cutter") -> "Told":
        """Remove what is zero already."""
        from pipeline.pruning import remove_dead

        emptied = remove_dead(model, (cutter.example,), (cutter.real,))
        figures = {"dead_channels_kept": list(emptied.kept)} if emptied.kept else {}
        return emptied.model, [*plans, emptied.plan], figures

    @staticmethod
    def _at_once(model: "nn.Module", plans: "list[ModelPlan]", cutter: "Cutter") -> "Told":
        from pipeline.stepwise import figures_of

        with cutter.progress.bar("prune and prove", 1) as bar:
            result = cutter(model)
            bar.advance()
        return result.model, [*plans, result.plan], figures_of(result)

    def _summed(self, state: "State") -> "Told":
        """Tell of all steps together; what the last of them could not cut is what stayed."""
        last = state.steps[-1] if state.steps else {"frozen": {}}
        figures = {
            "requested_ratio": self.ratio,
            "achieved_ratio": 1 - state.left,
            "proof_max_rel_error": max((step["proof_max_rel_error"] for step in state.steps), default=0.0),
            "frozen": last["frozen"],
            "steps": [dict(step) for step in state.steps],
        }
        return state.model, list(state.plans), figures


def _wrong_curves(options: Mapping[str, Any]) -> str | None:
    """Curves are there where the scope is by them, and nowhere else."""
    given = options["sensitivity"]
    if options["scope"] == "sensitivity" and (given is None or not Path(given).is_file()):
        return f"sensitivity: {given} is no file, and scope needs its curves; `edgesmith sensitivity` writes one"
    if options["scope"] != "sensitivity" and given is not None:
        return "sensitivity: is for scope sensitivity alone; set that, or leave it out"
    if given is not None and options["schedule"] is not None:
        return "schedule: curves are of the whole network, not of its steps; leave it out, or choose another scope"
    return None


def _wrong_schedule(options: Mapping[str, Any]) -> str | None:
    """A schedule takes shares of channels, macs, params or bytes; of these, layerwise takes channels."""
    schedule = options["schedule"]
    if schedule is None:
        return None
    granularity = set(options["granularity"])
    if "weight" in granularity:
        return "schedule: single weights go at once; leave weight out of granularity, or the schedule"
    if options["scope"] == "pfa_kl":
        return "schedule: scope pfa_kl takes no ratio to share out over steps; leave it out, or set scope: energy"
    if schedule.kind == "layerwise":
        if (options["of"], options["scope"]) != ("channels", "local"):
            return "schedule: layerwise takes one share of the channels of each group; set of: channels, scope: local"
        if whole := granularity & {"block", "layer"}:
            named = " and ".join(sorted(whole))
            return f"schedule: layerwise takes channels; leave {named} out of granularity, or choose another kind"
    return f"schedule.finetune: {lacking}" if (lacking := unready(schedule.finetune.devices)) else None
