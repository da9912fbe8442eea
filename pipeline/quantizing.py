"""Any float ONNX file to an int8 one for a target: calibrate, place, hold an accuracy floor, measure, report."""

import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from onnx import ModelProto

from calibration import observers
from calibration.choosing import Chosen
from calibration.collect import Pass, observe, quantizable
from calibration.equalize import Equalized
from calibration.graph import load_model
from calibration.kernels import layers
from calibration.mixed import Candidate, Mixed, mixed
from calibration.observations import Observations
from calibration.placement import Placement, place
from calibration.prepare import prepare
from calibration.ranges import Ranges
from calibration.runs import Run, opened
from calibration.saving import save_model
from calibration.scheme import Scheme
from calibration.selection import AUTO, REMEMBERS, RIVALS, select
from calibration.sensitivity import Sensitivity, sensitivity
from calibration.weights import Weights
from pipeline.calibrating import choose_for, equalize_model
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.fastest import fastest
from pipeline.feeding import Calls, Input, calls_from, folds_of, inputs_of
from pipeline.images import Preparation
from pipeline.judging import Floor, any_batch, metric_of, running, sqnr_of, sqnr_over
from pipeline.naming import check_excluded, name_nodes
from pipeline.placing import RANKED
from pipeline.progress import Progress
from pipeline.report.schema import MeasuredPlacement
from pipeline.weight_options import WeightOptions
from targets.base import Target
from targets.devices.base import Timing

EVALUATIONS = 40  # int8 models that may be judged to hold a floor
FOLD = 32  # samples in each of the two folds that observers are compared on
INTEGER_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"}
)


Method = Literal["static", "dynamic", "weights", "f16"]


@dataclass(frozen=True)
class Settings:
    """How to quantize, and what must not be lost."""

    observer: str = AUTO
    options: Mapping[str, float] = field(default_factory=dict)
    samples: int = 512
    weights: WeightOptions = field(default_factory=WeightOptions)
    metric: str | None = None  # FILE.py:NAME, or agreement
    max_drop: float | None = None  # in the metric's own unit
    min_sqnr: float | None = None  # dB
    exclude: tuple[str, ...] = ()
    sensitivity: bool = False
    method: Method = "static"
    placement: Literal["scheme", "measured"] = "scheme"
    races: int = 60  # of a measured placement
    store: Path = Path(".edgesmith")  # that keeps the timings of a measured placement
    on_regression: Literal["warn", "reject"] = "warn"


@dataclass(frozen=True)
class Job:
    """A model, its data, and where it goes. `place` is None where nothing is to be built or timed."""

    model: Path
    data: Path
    target: Target
    place: Place | None
    settings: Settings
    progress: Progress
    preparation: Preparation = field(default_factory=Preparation)
    timing: Timing = field(
        default_factory=lambda: Timing(samples=500, rounds=12, launches=6, max_s=30.0, precision=0.0)
    )


@dataclass(frozen=True)
class Source:
    """The float model as it came and as it is quantized, and the calls it is calibrated and judged on."""

    path: Path
    model: ModelProto  # prepared for int8, nodes named
    prepared: Path  # that model as a file
    inputs: tuple[Input, ...]
    seen: Calls
    judged: Calls
    held_out: bool
    reference: Run  # the model as it came, in float on onnxruntime


@dataclass(frozen=True)
class Made:
    """The int8 model, and how it came about."""

    model: ModelProto
    skipped: Mapping[str, str]
    made_of: "Weighted | None" = None  # None where a converter chose the weights
    rounded_anew: Mapping[str, str] = field(default_factory=dict)  # node -> why not with the weights chosen for it
    floor: Floor | None = None
    value: float | None = None  # of the floor's metric
    search: Mixed | None = None
    ranking: Sensitivity | None = None
    placement: MeasuredPlacement | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Weighted:
    """The float model that int8 is made of, and the int8 weights chosen for it."""

    model: ModelProto
    equalized: Equalized | None
    chosen: Chosen | None  # None: rounded to nearest as they are

    @property
    def weights(self) -> Weights | None:
        """The weights that placing it takes."""
        return self.chosen.weights if self.chosen else None


@dataclass(frozen=True, kw_only=True)
class Calibrated(Weighted):
    """The same, and what its activations hold."""

    ranges: Ranges
    tried: Mapping[str, float] = field(default_factory=dict)  # observer -> dB, where they were tried

    def placed(self, scheme: Scheme, exclude: Mapping[str, str]) -> Placement:
        """It in int8, but for the nodes that `exclude` names with by whom."""
        return place(self.model, self.ranges, scheme, weights=self.weights, exclude=exclude)


@contextmanager
def source_of(job: Job) -> Iterator[Source]:
    """Read the model and the data. Raises UserError or CalibrationError for what cannot be quantized."""
    raw = load_model(job.model)
    integer = sorted({node.op_type for node in raw.graph.node} & INTEGER_OPS)
    if integer:
        raise UserError(f"{job.model}: is quantized already, it has {', '.join(integer)} nodes; give the float model")
    inputs = inputs_of(raw, job.model)
    calls = calls_from(job.data, inputs, job.preparation)
    count = job.settings.samples
    rest = calls.part(count, count) if calls.count - count >= calls.batch else None
    model = prepare(raw)
    name_nodes(model)
    check_excluded(job.settings.exclude, raw, model)
    seen = calls.part(0, count)
    with tempfile.TemporaryDirectory() as folder, opened(job.model) as reference:
        prepared = Path(folder) / "float.onnx"
        save_model(model, prepared)
        yield Source(job.model, model, prepared, inputs, seen, rest or seen, rest is not None, reference)


def static(job: Job, source: Source) -> Made:
    """Calibrate, place, and leave in float what the floor asks for. Raises UserError where no int8 reaches it."""
    start_s = time.perf_counter()
    ready = _calibrated(job, source)
    calibrated_s = time.perf_counter()
    asked = dict.fromkeys(job.settings.exclude, "request")
    whole = _placed(job, ready, asked)
    floor = floor_of(job, source)
    made = Made(whole.model, whole.skipped, ready, whole.nearest)
    found = fastest(job, source, ready, floor, asked) if job.settings.placement == "measured" else None
    if found is not None and found.outcome in ("int8", "mixed"):
        best = _placed(job, ready, {**dict.fromkeys(found.floats, "measured placement"), **asked})
        value = found.accuracy if found.accuracy is not None or floor is None else _value(job, source, floor, best)
        made = Made(best.model, best.skipped, ready, best.nearest, floor, value)
    elif floor is not None:
        made = _held(job, source, floor, ready, whole)
    made = replace(made, placement=found)
    if job.settings.sensitivity and made.ranking is None:
        made = replace(made, ranking=_ranking(job, source, ready, asked))
    held_s = time.perf_counter()
    return replace(made, seconds={"calibrate": calibrated_s - start_s, "accuracy control": held_s - calibrated_s})


def _value(job: Job, source: Source, floor: Floor, placed: Placement) -> float:
    with running(placed.model, source.inputs, job.target, job.place) as run:
        return floor.metric(run)


def equalized(job: Job, source: Source) -> tuple[ModelProto, Equalized | None]:
    """The model to quantize, equalized if that is asked for."""
    if not job.settings.weights.equalize:
        return source.model, None
    done = equalize_model(source.model, lambda: _some(job, source), job.progress)
    return done.model, done


def weights_for(job: Job, source: Source, model: ModelProto) -> Chosen | None:
    """Its int8 weights; None where they are rounded to nearest as they are."""
    return choose_for(model, lambda: _some(job, source), job.settings.weights, job.progress)


def _some(job: Job, source: Source) -> Calls:
    """The samples that weights are chosen on."""
    return source.seen.part(0, job.settings.weights.samples)


def _calibrated(job: Job, source: Source) -> Calibrated:
    """Observe the activations, and choose the weights."""
    settings = job.settings
    auto = settings.observer == AUTO
    if auto and settings.options:
        raise UserError(f"--option {next(iter(settings.options))}: of which observer? name it with --observer")
    observer = observers.make(REMEMBERS if auto else settings.observer, **settings.options)
    model, done = equalized(job, source)
    path = source.prepared
    if done is not None:
        path = path.with_name("equalized.onnx")
        save_model(model, path)
    wanted = quantizable(model, job.target.scheme)
    folds, rest = folds_of(source.seen, FOLD) if auto else ([], [source.seen])
    with job.progress.bar("calibrate", source.seen.count) as bar:

        def remembered(calls: Calls) -> Observations:
            how = Pass(first=calls.start - source.seen.start)
            return observe(path, calls, observer, bar.advance, how=how, only=wanted)

        held, others = [remembered(calls) for calls in folds], [remembered(calls) for calls in rest]
    chosen = weights_for(job, source, model)
    if not auto:
        return Calibrated(model, done, chosen, ranges=others[0].ranges())
    with job.progress.bar("choose an observer", len(RIVALS)) as bar:

        def judge(fits: Sequence[Ranges]) -> float:
            bar.advance(note=fits[0].observer)
            ready = (Calibrated(model, done, chosen, ranges=ranges) for ranges in fits)
            models = (calibrated.placed(job.target.scheme, {}).model for calibrated in ready)
            return sqnr_over(zip(models, folds or rest, strict=True), source.reference)

        best = select(held, others, judge)
    return Calibrated(model, done, chosen, ranges=best.ranges, tried=best.tried)


def _placed(job: Job, ready: Calibrated, exclude: Mapping[str, str]) -> Placement:
    placed = ready.placed(job.target.scheme, exclude)
    if not placed.quantized:
        why = next((f": {name}, because {why}" for name, why in placed.skipped.items()), "")
        raise UserError(f"{job.model}: target {job.target.name()} would run no op of it in int8{why}; ship it in float")
    return placed


def floor_of(job: Job, source: Source) -> Floor | None:
    """What the user asked for; None without a metric or a floor. Raises UserError for what makes no sense."""
    settings = job.settings
    if settings.metric is None and settings.max_drop is not None:
        raise UserError("--max-drop: of which metric? add --metric eval.py:metric, or --metric agreement")
    if settings.metric is not None and settings.min_sqnr is not None:
        raise UserError("--min-sqnr and --metric are two floors; give one of them")
    if settings.metric is None and settings.min_sqnr is None:
        return None
    if settings.metric is None:
        metric = sqnr_of(source.judged, source.reference)
        return Floor("SQNR in dB", metric, metric(source.reference), settings.min_sqnr)
    metric = metric_of(settings.metric, source.judged, source.reference)
    value = metric(any_batch(source.reference, source.inputs))
    if settings.max_drop is None:
        return Floor(settings.metric, metric, value, None)
    if 0 <= value <= settings.max_drop:
        raise UserError(
            f"--max-drop {settings.max_drop:g} is in the unit of the metric, which is {value:g} in float: nothing"
            " could fail it; give a smaller one (0.01 is a point, if 1 is perfect), or return percent"
        )
    return Floor(settings.metric, metric, value, value - settings.max_drop)


def _held(job: Job, source: Source, floor: Floor, ready: Calibrated, whole: Placement) -> Made:
    """Judge the int8 model, and leave as little as possible in float for it to reach the floor."""
    asked = dict.fromkeys(job.settings.exclude, "request")
    parts = {layer.name: layer for layer in layers(ready.model, whole, job.target.scheme)}

    def without(names: Collection[str]) -> dict[str, str]:
        left = [op for name in names for op in parts[name].ops]
        return {**dict.fromkeys(left, f"accuracy control, for the floor on {floor.name}"), **asked}

    def judge(names: frozenset[str]) -> float:
        return _value(job, source, floor, ready.placed(job.target.scheme, without(names)))

    made = Made(whole.model, whole.skipped, ready, whole.nearest, floor, judge(frozenset()))
    if floor.least is None or (made.value is not None and made.value >= floor.least):
        return made
    ranking = _ranking(job, source, ready, asked)
    candidates = [Candidate(c.layer.name, c.total, float(c.layer.work)) for c in ranking.layers]
    with job.progress.bar(f"hold {floor.name}", EVALUATIONS) as bar:

        def counted(names: frozenset[str]) -> float:
            value = made.value if not names and made.value is not None else judge(names)
            bar.advance(note=f"{len(names)} of {len(parts)} layers in float: {value:g}")
            return value

        search = mixed(candidates, counted, floor.least, EVALUATIONS)
    if not search.met or len(search.excluded) == len(parts):
        raise UserError(
            f"{job.model}: {floor.name} is {made.value:g} in int8 and {floor.float_value:g} in float; it is"
            f" {floor.least:g} or more only with every layer in float: allow a larger drop, or try another --observer"
        )
    placed = _placed(job, ready, without(search.excluded))
    return Made(placed.model, placed.skipped, ready, placed.nearest, floor, search.accuracy, search, ranking)


def _ranking(job: Job, source: Source, ready: Calibrated, asked: Mapping[str, str]) -> Sensitivity:
    def placer(exclude: Collection[str]) -> Placement:
        return ready.placed(job.target.scheme, {**dict.fromkeys(exclude, "ranking"), **asked})

    total = len(layers(ready.model, placer(()), job.target.scheme)) + 2
    with job.progress.bar("rank layers", total) as bar:
        calls = source.seen.part(0, RANKED)
        return sensitivity(ready.model, job.target.scheme, placer, calls, on_step=lambda *_: bar.advance())
