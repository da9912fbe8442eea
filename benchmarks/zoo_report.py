"""The zoo's results as a table, a summary by engine and kind, and what holds models back."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

Record = Mapping[str, Any]
Records = Mapping[str, Record]  # "original" and each engine -> what its process found

NEAR = 0.03  # how far a convolutional network may be from the share of channels asked for
LOSS = 0.3  # the share of multiply-accumulates that an attention network should lose at least
STATUSES = ("ok", "broken", "refused", "time-out", "memory")
BLOCKERS = 3  # ops named for a model that is held back


def table(models: Mapping[str, Records], engines: list[str]) -> Table:
    """Return one row for each model and engine."""
    made = Table("model", "kind", "engine", "", "channels −", "layers −", "MACs ×", "frozen", "proof", "s", "MB")
    for column in made.columns:
        column.no_wrap = True
    for name, records in models.items():
        for engine in engines:
            if engine in records:
                made.add_row(name, records["original"]["kind"], engine, *_outcome(records, engine))
    return made


def _outcome(records: Records, engine: str) -> list[str]:
    record, ratio = records[engine], macs_ratio(records, engine)
    return [
        record["status"],
        _cell(record.get("removed"), ".3f"),
        _cell(record.get("layers_removed"), ".3f"),
        _cell(ratio, ".3f"),
        _cell(record.get("frozen_share"), ".2f"),
        _cell(record.get("proof_error"), ".0e"),
        _cell(record.get("seconds"), ".1f"),
        _cell(record.get("peak_mb"), ".0f"),
    ]


def summary(models: Mapping[str, Records], engines: list[str], ratio: float) -> Iterator[str]:
    """One line for each engine and kind, then each model that did not run or falls short, with what holds it back."""
    for engine in engines:
        ran = {n: r for n, r in models.items() if engine in r}
        for kind in sorted({r["original"]["kind"] for r in ran.values()}):
            chosen = {n: r for n, r in ran.items() if r["original"]["kind"] == kind}
            statuses = Counter(r[engine]["status"] for r in chosen.values())
            counted = ", ".join(f"{statuses[s]} {s}" for s in STATUSES if statuses[s])
            reached = sum(reaches(r, engine, ratio) for r in chosen.values())
            by_layers = sum(abs(r[engine].get("layers_removed", 0) - ratio) <= NEAR for r in chosen.values())
            alike = f" ({by_layers} by the widths of layers)" if kind == "conv" else ""
            yield f"{engine}, {kind}: {len(chosen)} models: {counted}; {reached} {requirement(kind, ratio)}{alike}"
    for name, records in models.items():
        if records["original"]["status"] != "ok":
            yield f"original, {name}: {_failure(records['original'])}"
    for engine in engines:
        for name, records in models.items():
            if engine in records and not reaches(records, engine, ratio):
                yield f"{engine}, {name}: {_shortfall(records, engine)}"


def requirement(kind: str, ratio: float) -> str:
    """Say what a model of this kind should reach."""
    if kind == "conv":
        return f"lose {ratio}±{NEAR} of the channels"
    return f"lose at least {LOSS:.0%} of the multiply-accumulates"


def reaches(records: Records, engine: str, ratio: float) -> bool:
    """Tell whether an engine does what a model of this kind requires.

    Channels removed are those that the engine counts, or the widths of layers where it does not count.
    """
    record = records[engine]
    if record["status"] != "ok":
        return False
    if records["original"]["kind"] == "conv":
        return bool(abs(record.get("removed", record["layers_removed"]) - ratio) <= NEAR + 1e-9)
    left = macs_ratio(records, engine)
    return left is not None and left <= 1 - LOSS


def macs_ratio(records: Records, engine: str) -> float | None:
    """Return multiply-accumulates after over before, None where either could not be counted."""
    before, after = records["original"].get("macs"), records[engine].get("macs")
    return after / before if before and after else None


def timings(times: Mapping[str, Mapping[str, Sequence[Record]]], engines: list[str]) -> Table:
    """Return median seconds, on the clock and of the processor, and how often the first engine's fit in the others'."""
    first, *others = engines
    made = Table("model", "", *(f"{e} s" for e in engines), *(f"{o} / {first}" for o in others))
    for name, by_engine in times.items():
        for label, key in (("clock", "seconds"), ("processor", "cpu_seconds")):
            medians = {e: statistics.median(run[key] for run in runs) for e, runs in by_engine.items() if runs}
            ratios = [medians[o] / medians[first] if {o, first} <= medians.keys() else None for o in others]
            made.add_row(
                name, label, *(_cell(medians.get(e), ".2f") for e in engines), *(_cell(r, ".2f") for r in ratios)
            )
    return made


def _shortfall(records: Records, engine: str) -> str:
    record = records[engine]
    if record["status"] != "ok":
        return _failure(record)
    removed, left = record.get("removed", record["layers_removed"]), macs_ratio(records, engine)
    reached = f"{removed:.3f} of the channels, MACs × {_cell(left, '.3f') or 'unknown'}"
    blockers = Counter[str](record.get("frozen", {})).most_common(BLOCKERS)
    return reached + "".join(f", {op} keeps {n} weights" for op, n in blockers)


def _failure(record: Record) -> str:
    return f"{record['status']}: {record.get('why', '')}"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
