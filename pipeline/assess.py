"""After every stage: build what would ship, measure it on the device, and decide whether it goes on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from pipeline.checkpoint import Info
from pipeline.core import PREVIOUS, Done
from pipeline.exporting import Shape, shapes_of
from pipeline.fingerprint import of_file
from pipeline.lowering import LOWERED, Lowered, left_out, lowered_files
from pipeline.measure import Meter, ratio_of
from pipeline.recipe import Recipe
from pipeline.report.board import board_report
from pipeline.report.schema import (
    Coverage,
    DeviceInfo,
    Interval,
    Latency,
    LayerTime,
    MeasuredPlacement,
    Precision,
    Proportion,
    StageReport,
    Verdict,
)
from pipeline.stages.compile import MODEL
from pipeline.store import Artifact
from pipeline.verdict import Evidence, judge
from targets import intervals
from targets.base import Kernel, Target
from targets.coverage import cover
from targets.devices.base import Measurement

PLACEMENT = "placement"  # the figure of a stage that measured it


@dataclass(frozen=True)
class Built:
    """What a stage would ship, built."""

    stage: str
    artifact: Artifact
    meter: Meter
    path: Path
    origin: str  # hash of the ONNX file it was built from
    digest: str
    size: int
    inputs: dict[str, Shape]
    metrics: dict[str, Proportion]
    placed: Lowered | None  # what became of each op, if it is in int8

    @property
    def contestant(self) -> tuple[Target, Path]:
        """What a race needs of it."""
        return self.meter.target, self.path


@dataclass
class Assessor:
    """Collects a row per stage; `on_done` is what the engine calls."""

    meter: Meter
    recipe: Recipe
    proxy: bool
    rows: list[StageReport] = field(default_factory=list)
    _builds: list[Built] = field(default_factory=list)
    _previous: Built | None = None  # what a stage's result would replace
    _accurate: Built | None = None  # the last one within the budget: what goes on instead of a rejected one
    _kinds: dict[str, str] = field(default_factory=dict)  # digest -> kind of the first verdict on it

    def on_done(self, done: Done) -> Artifact:
        """Measure a stage's result; return it, or the one that goes on in its place."""
        built = self._build(done)
        source = self._builds[0] if self._builds else built
        previous = self._previous or built
        twin = next((b for b in self._builds if b.digest == built.digest), None)
        if twin is not None:
            row = self._twin_row(done, built, twin)
        else:
            row = self._measured_row(done, built, source, previous)
        self.rows.append(row)
        self._builds.append(built)
        kind = self._kinds.setdefault(built.digest, row.verdict.kind)
        if row.verdict.rejected:
            self._previous = self._fallback(built.stage, source, previous)
        else:
            self._previous = built
            self._accurate = self._accurate if kind == "inaccurate" else built
        return self._previous.artifact

    def _fallback(self, stage: str, source: Built, previous: Built) -> Built:
        """What goes on in place of a stage's result: the last one within the budget, or just what it was made from."""
        return previous if self.recipe.policy(stage) == "reject_slower" else self._accurate or source

    @property
    def shipped(self) -> str:
        """The stage whose result is in the last artifact."""
        last = self._builds[-1]
        return next(b.stage for b in self._builds if b.origin == last.origin)

    def _build(self, done: Done) -> Built:
        meter = self.meter if self._builds else self.meter.in_float32()
        folder = done.artifact.path
        path = folder / MODEL
        if path.is_dir():
            model = done.inputs[PREVIOUS].path / "model.onnx"
        else:
            model = meter.lower(*lowered_files(folder), exclude=left_out(folder))
            path = meter.build(model).path
        proto = onnx.load(model)
        metrics = {} if meter.why_not else self._metrics(meter, path)
        return Built(
            done.stage.name(),
            done.artifact,
            meter,
            path,
            of_file(model),
            meter.digest(path),
            meter.size(path),
            shapes_of(proto),
            metrics,
            self._placed(proto, model.with_name(LOWERED)),
        )

    def _placed(self, proto: onnx.ModelProto, told: Path) -> Lowered | None:
        """What the lowering told; of a file that came in int8, what was told of the one it was made from."""
        found = Lowered.load(told) if told.is_file() else Lowered(int8=False)
        if found.int8:
            return found
        came = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
        return self._previous.placed if came and self._previous else None

    def _metrics(self, meter: Meter, path: Path) -> dict[str, Proportion]:
        found = {name: Proportion.model_validate(m) for name, m in meter.metrics(path, "test").items()}
        primary = meter.task.primary
        found[f"validation_{primary}"] = Proportion.model_validate(meter.metrics(path, "validation")[primary])
        return found

    def _measured_row(self, done: Done, built: Built, source: Built, previous: Built) -> StageReport:
        if built.meter.why_not:
            fields: dict[str, Any] = {"coverage": coverage(built.placed, compiled(built))}
            return self._row(done, built, self._verdict(built, source, previous, None), fields)
        contestants = {b.stage: b.contestant for b in (source, previous, built)}
        race = built.meter.race(contestants)
        mine = race[built.stage]
        # a call with another batch is another job: its time compares with nothing here
        comparable = built is not source and built.inputs == source.inputs
        speedup = ratio_of(race[source.stage], mine) if comparable else None
        ratio = ratio_of(mine, race[previous.stage]) if comparable else None
        fields = {
            "latency": latency(mine),
            "speedup": speedup,
            "ratio_to_previous": ratio,
            "memory_peak_bytes": mine.memory_peak_bytes,
            "layers": tuple(LayerTime(**asdict(layer)) for layer in mine.layers),
            "ran": dict(mine.precision),
            "coverage": coverage(built.placed, mine.kernels),
            "warnings": mine.warnings,
            "board": board_report(mine.board),
        }
        return self._row(done, built, self._verdict(built, source, previous, ratio), fields)

    def _verdict(self, built: Built, source: Built, previous: Built, ratio: Interval | None) -> Verdict:
        if built is source:
            return Verdict(kind="reference", text="the model as it came")
        if built.inputs != source.inputs:
            shapes = ", ".join("×".join(map(str, shape)) for shape in built.inputs.values())
            return Verdict(kind="same", text=f"one call takes {shapes}: not compared")
        twin = next((b for b in self._builds if b.origin == built.origin and b is not source), None)
        if twin is not None:  # compilers need not give the same bytes twice; any difference here is noise
            return Verdict(kind="same", text=f"another build of what {twin.stage} gave")
        name = f"validation_{self.meter.task.primary}"
        evidence = Evidence(
            previous=previous.stage,
            fallback=self._fallback(built.stage, source, previous).stage,
            accuracy=built.metrics.get(name),
            previous_accuracy=previous.metrics.get(name),
            source_accuracy=source.metrics.get(name),
            ratio=ratio,
            size=built.size,
            previous_size=previous.size,
            not_run=built.meter.why_not,
        )
        return judge(evidence, self.recipe.sections.budget.max_drop, self.recipe.policy(built.stage))

    def _row(self, done: Done, built: Built, verdict: Verdict, fields: dict[str, Any]) -> StageReport:
        info = Info.load(done.artifact.path)
        why_not = built.meter.why_not
        ran = fields.pop("ran", {})
        figures = dict(info.figures) if info else {}
        warnings = tuple(fields.pop("warnings", ()))
        empty = dict.fromkeys(("latency", "speedup", "ratio_to_previous", "memory_peak_bytes"))
        return StageReport(
            stage=built.stage,
            status="rejected" if verdict.rejected else "no device" if why_not else "ok",
            cached=done.cached,
            wall_s=round(done.wall_s, 3),
            size_bytes=built.size,
            params=info.params if info else None,
            macs=info.macs if info else None,
            metrics=built.metrics,
            runtime=dict(built.meter.fingerprint.runtime),
            precision=Precision(requested=str(getattr(built.meter.target, "precision", "f32")), ran=ran),
            device=None if why_not else self._device(built),
            proxy=self.proxy and not why_not,
            warnings=warnings,
            verdict=verdict,
            placement=figures.pop(PLACEMENT, None),
            figures=figures,
            **{**empty, **fields},
        )

    def _twin_row(self, done: Done, built: Built, twin: Built) -> StageReport:
        """The row of a stage whose files are those of an earlier one: measured once, said twice."""
        row = next(r for r in self.rows if r.stage == twin.stage)
        info = Info.load(done.artifact.path)
        figures = dict(info.figures) if info else {}
        told = figures.pop(PLACEMENT, None)
        changes = {
            "stage": built.stage,
            "status": "no device" if built.meter.why_not else "ok",
            "cached": done.cached,
            "wall_s": round(done.wall_s, 3),
            "placement": MeasuredPlacement.model_validate(told) if told else None,
            "figures": figures,
            "same_as": row.same_as or row.stage,
            "verdict": verdict_on_the_same(row),
        }
        return row.model_copy(update=changes)

    def _device(self, built: Built) -> DeviceInfo:
        fingerprint = built.meter.fingerprint
        return DeviceInfo(name=built.meter.device.name, digest=fingerprint.digest, fingerprint=asdict(fingerprint))


def verdict_on_the_same(row: StageReport) -> Verdict:
    """What to say of files that were measured before: those that were rejected do not ship under another name."""
    same = f"same files as {row.same_as or row.stage}"
    if row.verdict.rejected:
        return row.verdict.model_copy(update={"text": f"{same}: {row.verdict.text}"})
    return Verdict(kind="same", text=same)


def compiled(built: Built) -> tuple[Kernel, ...] | None:
    """The kernels that the compiler wrote down."""
    target, path = built.contestant
    return target.compiled(path)


def coverage(placed: Lowered | None, kernels: Sequence[Kernel] | None) -> Coverage | None:
    """How much of what was placed runs in int8, by kernels that ran or were compiled; None for float."""
    if placed is None:
        return None
    found = cover(placed.ops, dict(placed.skipped), kernels)
    return Coverage(**asdict(found), text=found.line())


def latency(measured: Measurement) -> Latency:
    """Summarise the call times of one artifact."""

    def of(q: float) -> Interval:
        found = intervals.quantile_of(measured.launches_ns, q)
        return Interval(value=found.value / 1e6, low=found.low / 1e6, high=found.high / 1e6, level=found.level)

    return Latency(
        p50_ms=of(0.5),
        p90_ms=of(0.9),
        p99_ms=of(0.99),
        samples=measured.blocks_ns,
        launches=measured.rounds,
        load_s=measured.load_s,
        first_call_s=measured.first_call_s,
        throughput_per_s=_throughput(measured) if measured.mode == "throughput" else None,
    )


def _throughput(measured: Measurement) -> Interval:
    """Samples per second: the median of the blocks."""
    found = intervals.quantile_of(measured.compared_ns, 0.5)
    each = 1e9 * measured.batch
    return Interval(value=each / found.value, low=each / found.high, high=each / found.low, level=found.level)
