"""Measured placement as the stage `place` and the verb `quantize` both run it."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from calibration.measured import ALL_INT8, Floats, Found, Judge, Ratio, Recover, Rules, Trial, measured
from calibration.mixed import Candidate, mixed
from calibration.parts import Part, parts
from calibration.placement import Placement
from calibration.runs import Feeds
from calibration.sensitivity import sensitivity
from pipeline.bench import Bench
from pipeline.progress import Progress
from pipeline.report.schema import Interval, MeasuredPlacement, PlacementTrial
from targets.devices.base import Timing

RANKED = 16  # samples that layers are ranked by: noise powers need few
EVALUATIONS = 24  # placements judged to reach a floor that all in int8 misses
# Of one comparison: there are many, and what counts is timed twice.
RACE_SAMPLES, RACE_ROUNDS, RACE_LAUNCHES, RACE_S = 300, 12, 6, 15.0
# of the network's time, shared among all layers: layers that cost nothing in float still leave it last
AT_LEAST = 1e-3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to stop looking for a faster placement."""

    races: Annotated[int, Field(ge=2, description="comparisons on the device")] = 60
    max_s: Annotated[float, Field(gt=0, description="seconds after which nothing new is tried")] = 900.0
    gain: Annotated[float, Field(ge=0, lt=100, description="percent of the time that a change must save")] = 1.0


def race_timing(timing: Timing) -> Timing:
    """How two placements are timed, where stages are timed by `timing`."""
    return replace(
        timing,
        samples=min(timing.samples, RACE_SAMPLES),
        rounds=min(timing.rounds, RACE_ROUNDS),
        launches=min(timing.launches, RACE_LAUNCHES),
        max_s=min(timing.max_s, RACE_S),
        precision=0.0,  # a close race is told by its own interval; all others would last as long as it
        layers=False,
    )


@dataclass(frozen=True)
class Wanted:
    """What the placement must reach: `least` of what `judge` says, larger is better; None asks for nothing."""

    judge: Judge | None = None
    least: float | None = None


def search(bench: Bench, wanted: Wanted, calls: Iterable[Feeds], limits: Limits, progress: Progress) -> Found:
    """Find the fastest placement of the network on the bench that reaches what is wanted.

    `calls` rank the layers, where everything in int8 misses the floor. Raises CalibrationError where no op
    would be in int8.
    """
    scheme = bench.spot.target.scheme
    cut = parts(bench.network.model, bench.network.placed(bench.spot.target, ALL_INT8), scheme)
    deadline_s = time.monotonic() + limits.max_s
    rules = Rules(wanted.least, limits.gain / 100, limits.races, lambda: time.monotonic() > deadline_s)
    with progress.bar("time placements", limits.races) as bar:
        done = 0

        def tell(trial: Trial) -> None:
            nonlocal done
            done += done < limits.races
            bar.advance(int(done < limits.races), f"{trial.change}: {said(trial.ratio)}")

        recover = _recovery(bench, cut, wanted, calls)
        found = measured(cut, bench.race, wanted.judge, rules, recover, tell)
        bar.advance(limits.races - min(done, limits.races - 1), summary(found))
    return found


def told(found: Found, wanted: Wanted, every: Floats) -> MeasuredPlacement:
    """What was found, for a report."""

    def name(floats: Floats) -> str:
        return "int8" if floats == ALL_INT8 else "float" if floats >= every else "what was kept"

    trials = tuple(
        PlacementTrial(
            change=trial.change,
            against=name(trial.against),
            floats=tuple(sorted(trial.floats)),
            ratio=_interval(trial.ratio),
            accuracy=trial.accuracy,
            kept=trial.kept,
            why=trial.why,
        )
        for trial in found.trail
    )
    return MeasuredPlacement(
        outcome=found.outcome,
        floats=tuple(sorted(found.floats)),
        ratio=_interval(found.ratio) if found.ratio else None,
        floor=wanted.least,
        accuracy=found.accuracy,
        complete=found.complete,
        text=summary(found),
        trials=trials,
    )


def summary(found: Found) -> str:
    """What was found, in a line."""
    limit = "" if found.complete else "; a limit ended the search"
    times = f"{len(found.trail)} comparisons"
    if found.outcome == "unreached":
        return "float is below the accuracy floor already: nothing was tried"
    if found.ratio is None:
        return f"no placement with int8 is faster than float here ({times}): float goes on{limit}"
    kept = "everything in int8" if found.outcome == "int8" else f"{len(found.floats)} ops in float"
    return f"{kept}, {1 / found.ratio.value:.2f}× as fast as float ({times}){limit}"


def said(ratio: Ratio) -> str:
    """A ratio of times with its interval."""
    return f"{ratio.value:.3f} ({ratio.low:.3f}–{ratio.high:.3f})"


def _interval(ratio: Ratio) -> Interval:
    return Interval(value=ratio.value, low=ratio.low, high=ratio.high)


def _recovery(bench: Bench, cut: Sequence[Part], wanted: Wanted, calls: Iterable[Feeds]) -> Recover | None:
    """What leaves the layers in float that give most accuracy back for the time they cost there."""
    judge, least = wanted.judge, wanted.least
    if judge is None or least is None:
        return None

    def recover(costs: Mapping[str, Ratio]) -> Floats | None:
        ranking = sensitivity(bench.network.model, bench.spot.target.scheme, placer(bench), calls)
        by_layer = layer_costs(cut, costs)
        ops = {cost.layer.name: frozenset(cost.layer.ops) for cost in ranking.layers}
        candidates = [Candidate(c.layer.name, c.total, by_layer[c.layer.name]) for c in ranking.layers]

        def floats(names: Collection[str]) -> Floats:
            return frozenset(op for name in names for op in ops[name])

        found = mixed(candidates, lambda names: judge(floats(names)), least, EVALUATIONS)
        return floats(found.excluded) if found.met else None

    return recover


def placer(bench: Bench) -> Callable[[Collection[str]], Placement]:
    """What places the network of a bench with ops left in float."""
    return lambda exclude: bench.network.placed(bench.spot.target, frozenset(exclude))


def layer_costs(cut: Sequence[Part], costs: Mapping[str, Ratio]) -> dict[str, float]:
    """The share of the network's time that each layer costs in float, by layer.

    `costs` is what parts cost, as ratios of times; a part's is shared among its layers by their work. A part
    that was not timed costs what its work does elsewhere on average.
    """
    runs = [part for part in cut if part.layers]
    work = {part.name: sum(layer.work for layer in part.layers) for part in runs}
    lost = {part.name: max(costs[part.name].value - 1, 0.0) for part in runs if part.name in costs}
    timed = sum(work[name] for name in lost)
    usual = sum(lost.values()) / timed if timed else 1.0
    whole = sum(work.values())
    return {
        layer.name: layer.work * (lost.get(part.name, usual * work[part.name]) / work[part.name] + AT_LEAST / whole)
        for part in runs
        for layer in part.layers
    }
