"""How far the timing loop can be trusted: its own overhead, other tools' medians, and its intervals' coverage.

chrt -f 10 python benchmarks/timing.py --out timing.json [--rounds 8] [--launches 120]

The real-time priority is for a machine that is shared. Goes on from what `--out` has by now.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import timing_peers as peers
from benchmarks.timing_coverage import covered, recorded
from benchmarks.timing_models import MODELS, exported
from targets import timing
from targets.backends.cpu import Cpu
from targets.backends.mobile import Mobile
from targets.base import Target
from targets.devices.local import Local
from targets.intervals import half_width
from targets.usage import quietest

CORE = quietest(1)[0]
TARGETS: Mapping[str, Target] = {"cpu": Cpu(), "mobile": Mobile(platform="amd64")}


def overhead(calls: int = 200_000, blocks: int = 15) -> dict[str, float]:
    """Nanoseconds that the loop adds to a call: what it reports for a runner that does nothing, and what passes."""

    def nothing(feeds: Any, /) -> dict[str, Any]:
        return {}

    reported, passed = [], []
    for _ in range(blocks):
        start_ns = timing.perf_counter_ns()
        samples = timing.block(nothing, {}, calls, settle=0)  # type: ignore[arg-type]
        passed.append((timing.perf_counter_ns() - start_ns) / calls)
        reported.append(float(np.median(samples)))
    return {"reported_ns": float(np.median(reported)), "per_call_ns": float(np.median(passed))}


def agreement(model: str, target: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Medians of our loop and of the runtime's own tool, from the same tenths of a second, in several processes."""
    built = folder / model / target
    if not built.exists():
        built.mkdir(parents=True)
        Local().build(TARGETS[target], exported(model, folder), built)
    peer = peers.benchmark_app if target == "cpu" else peers.profiler
    found = [peer(TARGETS[target], built, CORE) for _ in range(rounds)]
    ours, bare, theirs = (np.array([getattr(one, side) for one in found]) for side in ("ours", "bare", "theirs"))
    return {
        "ours_ns": ours.tolist(),
        "bare_ns": bare.tolist(),
        "theirs_ns": theirs.tolist(),
        "peer": peer.__name__,
        "ratio": _ratio(ours / theirs),
        "bare": _ratio(bare / theirs),
    }


def _ratio(ratios: NDArray[np.float64]) -> list[float]:
    """Their geometric mean, with an interval."""
    logs = np.log(ratios)
    middle, half = float(logs.mean()), half_width(logs)
    return [float(np.exp(x)) for x in (middle, middle - half, middle + half)]


def main() -> None:
    """Measure what `--out` does not have yet, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--launches", type=int, default=120)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    folder = args.out.with_suffix("")

    def kept(key: str, work: Callable[[], Any]) -> None:
        if key not in found:
            found[key] = work()
            args.out.write_text(json.dumps(found) + "\n")

    kept("overhead", overhead)
    for model in args.models:
        for target in TARGETS:
            kept(f"{model} {target}", lambda m=model, t=target: agreement(m, t, folder, args.rounds))
    laps = recorded(folder / "launches.jsonl", exported(args.models[0], folder), args.launches)
    found["coverage"] = covered(laps)
    args.out.write_text(json.dumps(found) + "\n")
    show(found, Console())


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the three tables."""
    cost = found["overhead"]
    console.print(
        f"an empty runner: {cost['reported_ns']:.0f} ns reported, {cost['per_call_ns']:.0f} ns passed per call"
    )
    table = Table("model, target", "ours ms", "theirs ms", "ours / theirs", "without copies / theirs", "peer")
    for key, one in found.items():
        if key in ("overhead", "coverage"):
            continue
        ratios = ["{:.3f} ({:.3f}–{:.3f})".format(*one[kind]) for kind in ("ratio", "bare")]
        medians = [f"{np.median(one[side]) / 1e6:.4f}" for side in ("ours_ns", "theirs_ns")]
        table.add_row(key, *medians, *ratios, one["peer"])
    console.print(table)
    table = Table("interval of", "launches", "covered", "level it claims")
    for row in found["coverage"]:
        table.add_row(row["of"], str(row["launches"]), f"{row['covered']:.1%}", f"{row['level']:.1%}")
    console.print(table)


if __name__ == "__main__":
    main()
