"""The verb quantize: make the int8 model, compare and time it beside the float one, write it and its report."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from calibration.kernels import weighted_ops
from calibration.runs import Fidelity, compare
from calibration.saving import save_model
from pipeline.assess import latency
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.exporting import describe
from pipeline.fastest import where
from pipeline.judging import running
from pipeline.measure import in_float32, ratio_of
from pipeline.now import now
from pipeline.quantizing import Calibrated, Job, Made, Method, Source, Weighted, source_of, static
from pipeline.report.layer_noise import picture
from pipeline.report.quantized import Accuracy, Output, Quantized, Side, Weights
from pipeline.report.schema import Coverage, Interval, MeasuredPlacement, Verdict
from pipeline.uncalibrated import DYNAMIC, dynamic, half, weights_only
from pipeline.verdict import Evidence, judge
from targets.base import Kernel, Target, TargetError
from targets.coverage import Op, cover
from targets.devices.base import Measurement
from targets.npz import save

MAKERS: Mapping[Method, Callable[[Job, Source], Made]] = {
    "static": static,
    "dynamic": dynamic,
    "weights": weights_only,
    "f16": half,
}
DISTRIBUTIONS = ("edgesmith", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Raced:
    """Both models built for the target, and what they did against each other, where they could run."""

    sizes: Mapping[str, int]
    measured: Mapping[str, Measurement] | None
    compiled: tuple[Kernel, ...] | None = None  # the int8 model's kernels, where none of it could run


def quantize(job: Job, out: Path) -> Quantized:
    """Write the int8 model of `job` to `out` and its report beside it, as .json; return the report.

    With `on_regression: reject` no model is written that is slower than the float one on this device; the
    report is. Where layers were ranked, `.sensitivity.json` and `.sensitivity.svg` beside it show how.
    Raises UserError for what cannot be quantized, and where no int8 model reaches the floor.
    """
    if out.suffix != ".onnx" or out.resolve() == job.model.resolve():
        raise UserError(f"--out {out}: name another .onnx file than the model's own")
    if job.settings.placement == "measured":
        where(job)
    start_s = time.perf_counter()
    with source_of(job) as source:
        made = MAKERS[job.settings.method](job, source)
        describe(made.model, {"edgesmith.quantized": job.settings.method})
        fidelity = _fidelity(job, source, made)
        with tempfile.TemporaryDirectory() as folder:
            raced = _race(job, source, made, Path(folder))
        report = _report(job, source, made, (fidelity, raced))
    report = report.model_copy(update={"seconds": {**report.seconds, "all": round(time.perf_counter() - start_s, 3)}})
    if report.written:
        _put(made, out)
    text = report.model_dump_json(by_alias=True, indent=1) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(text, encoding="utf-8")
    if made.ranking is not None:
        made.ranking.save(out.with_suffix(".sensitivity.json"))
        left = made.search.excluded if made.search else frozenset()
        drawn = picture(made.ranking, job.model.name, left)
        out.with_suffix(".sensitivity.svg").write_text(drawn, encoding="utf-8")
    return report


def _put(made: Made, out: Path) -> None:
    """Write the model beside `out`, then put it in place: an interrupted run leaves no half of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        save_model(made.model, Path(folder) / out.name)
        # the weights of a large model first: the file that names them must not be there without them
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == out.name):
            path.replace(out.with_name(path.name))


def _fidelity(job: Job, source: Source, made: Made) -> Fidelity:
    """Compare the outputs with those of the model as it came."""
    with (
        job.progress.bar("compare outputs", len(source.judged)) as bar,
        running(made.model, source.inputs, job.target, job.place) as run,
    ):
        return compare(source.reference, run, source.judged, bar.advance)


def _race(job: Job, source: Source, made: Made, folder: Path) -> Raced:
    """Build both for the target and time them, interleaved, on the first call of the data."""
    save_model(made.model, folder / "int8.onnx")
    files = {"float": (in_float32(job.target), source.path), "int8": (job.target, folder / "int8.onnx")}
    if job.place is None:
        return Raced({name: onnx_bytes(path) for name, (_, path) in files.items()}, None)
    built = {}
    for name, (target, path) in files.items():
        (folder / name).mkdir()
        job.place.device.build(target, path, folder / name)
        built[name] = (target, folder / name)
    sizes = {name: sum(p.stat().st_size for p in target.shipped(path)) for name, (target, path) in built.items()}
    if job.place.why_not:
        return Raced(sizes, None, job.target.compiled(folder / "int8"))
    save(folder / "feeds.npz", next(iter(source.judged)))
    with job.progress.bar("time float / int8", job.timing.rounds) as bar:
        return Raced(sizes, job.place.device.measure(built, folder / "feeds.npz", job.timing, bar.advance))


def onnx_bytes(path: Path) -> int:
    """Size of an ONNX file with the weights it keeps beside it."""
    from onnx import load
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    tensors = load(path, load_external_data=False).graph.initializer
    names = {ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in names)


def _report(job: Job, source: Source, made: Made, judged: tuple[Fidelity, Raced]) -> Quantized:
    fidelity, raced = judged
    there = job.place
    ran = raced.measured
    ratio = None if ran is None else ratio_of(ran["int8"], ran["float"])
    verdict = _verdict(job, raced, ratio, made.placement)
    settings, target = job.settings, job.target
    ranges = made.made_of.ranges if isinstance(made.made_of, Calibrated) else None
    sides = {name: _side(raced, name, path) for name, path in (("float", source.path), ("int8", None))}
    return Quantized(
        model=job.model.name,
        target={"name": target.name(), **asdict(target)},
        created=now(),
        versions=_versions(target, there),
        device=asdict(there.fingerprint) if there is not None and ran is not None else None,
        proxy=there is not None and there.proxy,
        method=settings.method,
        observer=_observer(made.made_of),
        samples=ranges.samples if ranges else 0,
        weights=_weights(job, source, made),
        evaluated_samples=fidelity.samples,
        held_out=source.held_out or ranges is None,
        evaluated_on="onnxruntime, in float arithmetic" if ran is None else f"target {target.name()}",
        outputs=_outputs(fidelity),
        accuracy=_accuracy(made),
        placement=made.placement,
        kept_float=dict(made.skipped),
        coverage=_coverage(job, source, made, raced),
        float_=sides["float"],
        int8=sides["int8"].model_copy(update={"onnx_bytes": made.model.ByteSize()}),
        ratio=ratio,
        verdict=verdict,
        seconds={name: round(took, 3) for name, took in made.seconds.items()},
        warnings=tuple(dict.fromkeys(f"{name}: {w}" for name, m in (ran or {}).items() for w in m.warnings)),
        written=not verdict.rejected,
    )


def _observer(found: Weighted | None) -> dict[str, Any] | None:
    if not isinstance(found, Calibrated):
        return None
    tried = {"tried": {name: round(db, 2) for name, db in found.tried.items()}} if found.tried else {}
    return {"name": found.ranges.observer, **found.ranges.options, **tried}


def _weights(job: Job, source: Source, made: Made) -> Weights | None:
    """How the int8 weights were chosen."""
    ready, options = made.made_of, job.settings.weights
    if ready is None:
        return None
    moved = ready.equalized
    left = {**({"equalize": moved.skipped} if moved else {}), **(ready.chosen.skipped if ready.chosen else {})}
    return Weights(
        scale=options.scale,
        rounding=options.rounding,
        bias=options.bias,
        samples=source.seen.part(0, options.samples).count if ready.chosen or moved else 0,
        equalized=None if moved is None else len(moved.pairs),
        not_applied={method: dict(skipped) for method, skipped in left.items() if skipped},
        rounded_anew=dict(made.rounded_anew),
    )


def _verdict(job: Job, raced: Raced, ratio: Interval | None, placement: MeasuredPlacement | None = None) -> Verdict:
    why_not = "--device none" if job.place is None else job.place.why_not
    evidence = Evidence(
        previous="float",
        fallback="float",
        accuracy=None,
        previous_accuracy=None,
        source_accuracy=None,
        ratio=ratio,
        size=raced.sizes["int8"],
        previous_size=raced.sizes["float"],
        not_run=f"not timed: {why_not}" if why_not else None,
    )
    found = judge(evidence, 0.0, "warn")
    float_won = placement is not None and placement.outcome == "float"
    if found.kind != "slower" and not float_won:
        return found
    rejected = job.settings.on_regression == "reject"
    end = "nothing was written" if rejected else "written all the same, as other devices may differ"
    why = f"it is {found.text}" if found.kind == "slower" else "no placement with int8 is faster than float"
    return Verdict(kind="slower", text=f"{why}: not worth shipping here; {end}", rejected=rejected)


def _side(raced: Raced, name: str, path: Path | None) -> Side:
    found = raced.measured[name] if raced.measured else None
    return Side(
        size_bytes=raced.sizes[name],
        onnx_bytes=onnx_bytes(path) if path else 0,
        latency=latency(found) if found else None,
        memory_peak_bytes=found.memory_peak_bytes if found else None,
        kernels=dict(found.precision) if found else {},
    )


def _outputs(fidelity: Fidelity) -> dict[str, Output]:
    return {
        name: Output(sqnr_db=db if isfinite(db) else None, agreement=fidelity.agreement.get(name))
        for name, db in fidelity.sqnr_db().items()
    }


def _accuracy(made: Made) -> Accuracy | None:
    if made.floor is None or made.value is None:
        return None
    trials = made.placement.trials if made.placement else ()
    asked = len({trial.floats for trial in trials if trial.accuracy is not None})
    evaluations = len(made.search.trail) if made.search else max(asked, 1)
    return Accuracy(
        name=made.floor.name,
        float_=made.floor.float_value,
        int8=made.value,
        floor=made.floor.least,
        evaluations=evaluations,
    )


def _coverage(job: Job, source: Source, made: Made, raced: Raced) -> Coverage:
    scheme = job.target.scheme
    kinds = (*scheme.weighted, *DYNAMIC) if job.settings.method == "dynamic" else scheme.weighted
    ops = [Op(op.name, op.kind, op.writes) for op in weighted_ops(source.model, kinds)]
    # what dynamic quantization makes of an op goes under new names: its own report is all there is
    kernels = raced.measured["int8"].kernels if raced.measured else raced.compiled
    found = cover(ops, made.skipped, kernels if job.settings.method != "dynamic" else None)
    return Coverage(**asdict(found), text=found.line())


def _versions(target: Target, place: Place | None) -> dict[str, Any]:
    """Versions of what computed this; a target that is not installed here ran nothing."""
    found = {name: version(name) for name in DISTRIBUTIONS}
    try:
        return {**found, **(place.fingerprint.runtime if place else target.versions())}
    except TargetError:
        return found
