"""The past runs of a baseline, one line each: what its slow drift is seen by."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.gate.baselines import Baseline, Baselines
from pipeline.gate.judge import int8_share
from pipeline.gate.runs import Run

SCHEMA = "edgesmith.history/1"


@dataclass(frozen=True)
class Past:
    """One run: what it measured, and what was made of it."""

    at: str  # UTC, ISO 8601
    event: Literal["saved", "checked", "accepted"]  # accepted: drift is looked for from here on
    run: str  # digest
    version: int  # of the baseline, that it became or was checked against
    commit: str | None
    device: str  # digest of the fingerprint
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    size_bytes: int
    memory_peak_bytes: int | None
    accuracy: float | None
    int8: float | None  # percent of ops
    ratio: float | None = None  # p50 over that of the baseline's version, where both were measured interleaved
    level: float | None = None  # the same over the first version: the product of such ratios
    outcome: str | None = None


def read(store: Baselines, name: str) -> tuple[Past, ...]:
    """The history of a baseline, oldest first; empty where there is none. Raises UserError for a damaged one."""
    path = store.history_file(name)
    if not path.is_file():
        return ()
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_past(line, f"{path}:{number}"))
    return tuple(found)


def append(store: Baselines, name: str, past: Past) -> Path:
    """Add a line; return the file."""
    path = store.history_file(name)
    with store.locked(name), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"schema": SCHEMA, **asdict(past)}, sort_keys=True) + "\n")
    return path


def past_of(run: Run, at: str, event: Literal["saved", "checked", "accepted"], version: int) -> Past:
    """What the report of a run says, as a line of history."""
    row = run.row
    accuracy = next((m.value for name, m in row.metrics.items() if not name.startswith("validation_")), None)
    times = row.latency
    return Past(
        at=at,
        event=event,
        run=run.digest,
        version=version,
        commit=run.report.git_commit,
        device=row.device.digest if row.device else "",
        p50_ms=times.p50_ms.value if times else None,
        p90_ms=times.p90_ms.value if times else None,
        p99_ms=times.p99_ms.value if times else None,
        size_bytes=row.size_bytes,
        memory_peak_bytes=row.memory_peak_bytes,
        accuracy=accuracy,
        int8=int8_share(row),
    )


def level_of(run: Run, latest: Baseline | None, history: Sequence[Past]) -> float | None:
    """The level of a run that becomes a version: as a check measured it; else by medians under one fingerprint."""
    if latest is None:
        return 1.0
    checked = [past.level for past in since_accepted(history) if past.run == run.digest and past.level is not None]
    if checked:
        return checked[-1]
    before, now = latest.run.row, run.row
    same = before.device and now.device and before.device.digest == now.device.digest
    if not (same and before.latency and now.latency and latest.version.level):
        return None
    return latest.version.level * now.latency.p50_ms.value / before.latency.p50_ms.value


def leveled(past: Past, level: float | None) -> Past:
    """The same with what is known of its level."""
    return replace(past, level=level)


def since_accepted(history: Sequence[Past]) -> tuple[Past, ...]:
    """What came after the last change that was accepted, with it."""
    starts = [i for i, past in enumerate(history) if past.event == "accepted"]
    return tuple(history[starts[-1] :] if starts else history)


def distinct(history: Sequence[Past]) -> tuple[Past, ...]:
    """Each run once, as last told; a level that was measured is not lost to a later line without."""
    found: dict[str, Past] = {}
    for past in history:
        known = found.get(past.run)
        found[past.run] = replace(past, level=known.level) if known and past.level is None else past
    return tuple(found.values())


def _past(line: str, where: str) -> Past:
    try:
        told = json.loads(line)
        if told.pop("schema") != SCHEMA:
            raise ValueError("schema")
        past = Past(**told)
        if any(v is not None and not v > 0 for v in (past.p50_ms, past.ratio, past.level)):
            raise ValueError("not positive")
        return past
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: no line of {SCHEMA}; delete it or fetch the history again") from error
