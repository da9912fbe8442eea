"""A run against its baseline: which samples may be compared, and what comes of it."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.fingerprint import of_file
from pipeline.gate import judge
from pipeline.gate.baselines import Baseline
from pipeline.gate.drift import drift_of, judged_drift
from pipeline.gate.evidence import Ratio, stored
from pipeline.gate.history import Past, distinct, past_of
from pipeline.gate.judge import Memory, Timed, not_judged
from pipeline.gate.remeasure import Launch, judged, remeasure
from pipeline.gate.runs import Run
from pipeline.gate.schema import Check, Judgement
from pipeline.gate.schema import Launch as Kept
from pipeline.gate.tolerances import LATENCIES, Gate
from pipeline.progress import Progress
from pipeline.report.schema import Latency, StageReport
from targets.differences import differences
from targets.intervals import cut
from targets.stats import quantile

How = Literal["auto", "remeasure", "stored"]
KIND = ("machine", "emulator")  # fields of a fingerprint by which devices are of one kind
INTERLEAVED: Literal["interleaved"] = "interleaved"
STORED: Literal["stored"] = "stored"
REFUSED: Literal["refused"] = "refused"
SAME: Literal["same files"] = "same files"


@dataclass(frozen=True)
class Terms:
    """How to check."""

    gate: Gate
    how: How = "auto"  # auto: the stored samples, and where those cannot tell or tell ill, both anew
    allow_fingerprint_change: bool = False


@dataclass(frozen=True)
class Case:
    """What is checked, against what, and where it can be measured anew."""

    run: Run
    baseline: Baseline
    place: Place
    history: Sequence[Past]
    created: str


@dataclass(frozen=True)
class _Found:
    """Judgements of latency and memory, and how they came about."""

    how: Literal["interleaved", "stored", "refused", "same files"]
    judgements: tuple[Judgement, ...]
    notes: tuple[str, ...] = ()
    launches: tuple[Launch, ...] = ()


def check(case: Case, terms: Terms, progress: Progress) -> tuple[Check, Past]:
    """Judge a run; return the outcome and the line it adds to the history.

    Raises UserError where the two have nothing to compare.
    """
    now, before = case.run.manifest, case.baseline.run.manifest
    if now.target_name != before.target_name:
        raise UserError(
            f"{case.run.folder} was built for {now.target_name}, the baseline {case.baseline.title} for "
            f"{before.target_name}: give the baseline of that target"
        )
    if now.mode != before.mode:
        raise UserError(
            f"{case.run.folder} was timed for {now.mode}, the baseline {case.baseline.title} for {before.mode} "
            "(timing.mode): save a new baseline"
        )
    timed = _timed(case, terms, progress)
    still = _still(case.run.row, case.baseline.run.row, terms.gate)
    past = _past(case, timed)
    judgements = (*timed.judgements, *still, *_drift([*case.history, past], terms.gate))
    where = case.place.fingerprint if timed.how == INTERLEAVED else None
    found = Check(
        created=case.created,
        run=str(case.run.folder),
        baseline=case.baseline.version.name,
        version=case.baseline.version.number,
        outcome=judge.overall(judgements, terms.gate),
        how=timed.how,
        device=asdict(where) if where else dict(case.run.manifest.device),
        judgements=judgements,
        notes=timed.notes,
        launches=tuple(Kept(baseline=a, run=b) for a, b in (launch.pair for launch in timed.launches)),
    )
    return found, replace(past, outcome=found.outcome)


def _timed(case: Case, terms: Terms, progress: Progress) -> _Found:
    if terms.how == "auto" and _same_files(case):
        names = [name for name in (*LATENCIES, "memory") if terms.gate.tolerance(name) is not None]
        same = tuple(Judgement(metric=name, outcome="pass", text="the same files") for name in names)
        return _Found(SAME, same, ("the artifact is the baseline's, byte for byte: there is nothing to measure",))
    changed = differences(case.baseline.run.manifest.device, case.run.manifest.device)
    if changed and not terms.allow_fingerprint_change:
        why = f"the baseline was measured elsewhere ({'; '.join(changed)})"
        return _refused(terms.gate, f"{why}: --allow-fingerprint-change measures both anew, here")
    why_not = _why_not_anew(case, terms)
    if changed or terms.how == "remeasure":
        return _refused(terms.gate, why_not) if why_not else _anew(case, terms, progress)
    found = _from_stored(case, terms.gate)
    # What today's machine does differently from that day's is no regression: only both anew can show one.
    if terms.how == "stored" or not _doubtful(found.judgements, terms.gate):
        return found
    if why_not:
        return replace(found, notes=(*found.notes, why_not))
    return _anew(case, terms, progress)


def _doubtful(judgements: Sequence[Judgement], gate: Gate) -> bool:
    """Whether measuring anew could say more. Of memory a run stores one peak, which alone is never significant."""
    asked = {*gate.decisive, "memory"}
    return any(j.outcome == "regression" or (j.outcome == "cannot tell" and j.metric in asked) for j in judgements)


def _why_not_anew(case: Case, terms: Terms) -> str | None:
    """Why the two cannot be measured at this place, or may not without being asked to; None where they can."""
    if case.place.why_not:
        return f"neither can be measured here: {case.place.why_not}; name a --device that can"
    if case.run.row.latency is None:  # nowhere yet, so nowhere else
        return None
    measured, here = case.run.manifest.device, asdict(case.place.fingerprint)
    kinds = [" ".join(device.get(field) or "" for field in KIND).strip() for device in (measured, here)]
    if kinds[0] != kinds[1]:
        return f"the run was measured on {kinds[0]}, and this is {kinds[1]}: name its device with --device"
    changed = differences(measured, here)
    if changed and not terms.allow_fingerprint_change:
        return (
            f"this is not where the run was measured ({'; '.join(changed)}): name that device with --device, "
            "or --allow-fingerprint-change measures both anew, here"
        )
    return None


def _same_files(case: Case) -> bool:
    """Whether what ships is the same: bytes, and how the runtime is set up."""
    now, before = case.run, case.baseline.run
    target = now.manifest.target()
    if target != before.manifest.target() or now.report.versions != before.report.versions:
        return False
    files = [{path.name: of_file(path) for path in target.shipped(run.model)} for run in (now, before)]
    return files[0] == files[1]


def _refused(gate: Gate, why: str) -> _Found:
    names = [name for name in (*LATENCIES, "memory") if gate.tolerance(name) is not None]
    return _Found(REFUSED, tuple(not_judged(name, "not compared", "cannot tell") for name in names), (why,))


def _anew(case: Case, terms: Terms, progress: Progress) -> _Found:
    gate = terms.gate
    found = remeasure(case.baseline.run, case.run, case.place, gate, progress)
    judgements = judged(found, gate)
    notes = [f"both artifacts measured anew, interleaved, in {len(found)} pairs of fresh processes"]
    if any(j.outcome == "cannot tell" for j in judgements):
        limit = f"{gate.launches} launches or {gate.max_s:g} s"
        notes.append(f"what cannot be told takes a quieter machine or more than {limit} (gate.launches, gate.max_s)")
    warnings = (text for launch in found for m in (launch.baseline, launch.run) for text in m.warnings)
    # one of a kind: launches say the same with other numbers
    notes += {re.sub(r"[\d.]+", "", text): text for text in warnings}.values()
    return _Found(INTERLEAVED, judgements, tuple(notes), found)


def _from_stored(case: Case, gate: Gate) -> _Found:
    before, now = case.baseline.run.row, case.run.row
    if before.latency is None or now.latency is None:
        which = "the baseline" if before.latency is None else "the run"
        return _refused(gate, f"{which} was not measured (no device); deploy where the target can run")
    device = case.run.row.device.digest if case.run.row.device else ""
    past = [p.p50_ms for p in distinct(case.history) if p.device == device and p.p50_ms is not None]
    timed = {name: _of_stored(before.latency, now.latency, q, past) for name, q in LATENCIES.items()}
    found = judge.latencies(timed, gate)
    if gate.memory is not None:
        found.append(_stored_memory(before, now, gate.memory))
    notes = ["compared with the samples of the baseline's own day: --remeasure measures both anew, interleaved"]
    return _Found(STORED, tuple(found), tuple(notes))


def _of_stored(before: Latency, now: Latency, q: float, past: Sequence[float]) -> Timed:
    pooled = [[ns for block in latency.samples for ns in block] for latency in (before, now)]
    ratio = stored(cut(before.samples, before.launches), cut(now.samples, now.launches), q, past)
    return _in_ms(quantile(pooled[0], q), quantile(pooled[1], q), ratio)


def _in_ms(baseline_ns: float, run_ns: float, ratio: Ratio) -> Timed:
    return Timed(baseline_ns / 1e6, run_ns / 1e6, ratio)


def _stored_memory(before: StageReport, now: StageReport, tolerance: float) -> Judgement:
    if before.memory_peak_bytes is None or now.memory_peak_bytes is None:
        return not_judged("memory", "not measured")
    return judge.judged_memory(Memory((before.memory_peak_bytes,), (now.memory_peak_bytes,)), tolerance)


def _still(run: StageReport, baseline: StageReport, gate: Gate) -> list[Judgement]:
    """What does not depend on the day: size, accuracy, int8 coverage."""
    found = []
    if gate.size is not None:
        found.append(judge.judged_size(baseline.size_bytes, run.size_bytes, gate.size))
    if gate.accuracy is not None:
        found.append(_accuracy(run, baseline, gate.accuracy))
    if gate.int8 is not None:
        found.append(judge.judged_int8(baseline, run, gate.int8))
    return found


def _accuracy(run: StageReport, baseline: StageReport, tolerance: float) -> Judgement:
    names = [name for name in baseline.metrics if not name.startswith("validation_")]
    if not names or names[0] not in run.metrics:
        return not_judged("accuracy", "not measured in both")
    return judge.judged_accuracy(baseline.metrics[names[0]], run.metrics[names[0]], tolerance)


def _drift(history: Sequence[Past], gate: Gate) -> list[Judgement]:
    return [] if gate.p50 is None else [judged_drift(drift_of(history), gate.p50)]


def _past(case: Case, timed: _Found) -> Past:
    version = case.baseline.version
    p50 = next((j for j in timed.judgements if j.metric == "p50"), None)
    measured = p50 is not None and timed.how == INTERLEAVED and p50.change is not None
    ratio = 1 + p50.change / 100 if p50 is not None and measured and p50.change is not None else None
    return replace(
        past_of(case.run, case.created, "checked", version.number),
        ratio=ratio,
        level=None if ratio is None or version.level is None else version.level * ratio,
    )
