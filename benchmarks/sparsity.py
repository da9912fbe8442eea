"""What single weights at zero buy: the built-in ResNet-20 dense, half zero, 2:4, and with channels gone instead.

All are exported in float32, built for each target and timed against each other in interleaved blocks; "dense again"
is a second copy of the dense model, and shows what the comparison itself can tell apart. Channels go until as
many parameters are gone as weights are zero.

    python benchmarks/sparsity.py [--targets cpu mobile] [--rounds N] [--json FILE]
"""

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.builtin import dense
from pipeline.exporting import INPUT, to_onnx
from pipeline.pruning import prune
from pipeline.pruning.sparsity import sparsify
from pipeline.report.table import size
from targets.devices.base import Measurement, Timing
from targets.devices.local import Local
from targets.intervals import quantile_of, ratio
from targets.npz import save
from targets.plugins import make

SHAPE = (8, 1, 28, 28)
COLUMNS = ("target", "model", "zeros", "weights", "gzipped", "p50 ms", "× dense", "95%")
DENSE = "dense"


def models() -> dict[str, tuple[nn.Module, float]]:
    """The contestants, and the share of zeros in the weights of each."""
    whole = dense()
    half, pattern = sparsify(whole), sparsify(whole, pattern="2:4")
    pruned = prune(whole, (torch.zeros(SHAPE),), ratio=0.5, target="params", round_to=16)
    return {
        DENSE: (whole, 0.0),
        "dense again": (whole, 0.0),
        "50% zero": (half.model, half.achieved),
        "2:4": (pattern.model, pattern.achieved),
        "channels": (pruned.model, 0.0),
    }


def bench(name: str, files: Mapping[str, Path], timing: Timing, folder: Path) -> dict[str, Any]:
    """Build every file for a target and time them against each other."""
    device, target = Local(), make(name, {})
    contestants = {}
    for label, path in files.items():
        built = folder / f"{name} {label}"
        built.mkdir()
        device.build(target, path, built)
        contestants[label] = (target, built)
    measured = device.measure(contestants, folder / "feeds.npz", timing)
    return {
        "target": name,
        "fingerprint": asdict(device.fingerprint(target)),
        "models": {label: figures(m, measured[DENSE]) for label, m in measured.items()},
    }


def figures(mine: Measurement, dense: Measurement) -> dict[str, Any]:
    """The median, and how many times as fast as the dense model, each with its 95% interval."""
    p50 = quantile_of(mine.launches_ns, 0.5)
    return {
        "p50_ms": {"value": p50.value / 1e6, "low": p50.low / 1e6, "high": p50.high / 1e6},
        "speedup": asdict(ratio(dense.launches_ns, mine.launches_ns)),
        "samples": sum(map(len, mine.blocks_ns)),
        "precision": dict(mine.precision),
        "warnings": list(mine.warnings),
    }


def table(results: list[dict[str, Any]], facts: Mapping[str, dict[str, Any]]) -> Table:
    """One row per target and model."""
    shown = Table(*COLUMNS, title="ResNet-20, float32, batch 1")
    for result in results:
        for label, found in result["models"].items():
            p50, speedup, fact = found["p50_ms"], found["speedup"], facts[label]
            half = max(p50["high"] - p50["value"], p50["value"] - p50["low"])
            shown.add_row(
                result["target"],
                label,
                f"{fact['zeros']:.1%}",
                size(fact["size_bytes"]),
                size(fact["gzipped_bytes"]),
                f"{p50['value']:.3f} ±{half:.3f}",
                f"{speedup['value']:.3f}",
                f"{speedup['low']:.3f}–{speedup['high']:.3f}",
            )
    return shown


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["cpu", "mobile"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    timing = Timing(rounds=args.rounds, max_s=180)
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder, files, facts = Path(name), {}, {}
        save(folder / "feeds.npz", {INPUT: x})
        for label, (model, zeros) in models().items():
            files[label] = folder / f"{label}.onnx"
            to_onnx(model.eval(), x, files[label], 1, {})
            data = files[label].read_bytes()
            facts[label] = {"zeros": zeros, "size_bytes": len(data), "gzipped_bytes": len(gzip.compress(data))}
        results = [bench(target, files, timing, folder) for target in args.targets]
    console = Console()
    console.width = max(console.width, 110)  # piped, it would be cut at 80
    console.print(table(results, facts))
    for result in results:
        machine = result["fingerprint"]
        versions = ", ".join(f"{k} {v}" for k, v in machine["runtime"].items())
        console.print(f"{result['target']}: {machine['cpu']}, one thread, {versions}", markup=False)
        for label, found in result["models"].items():
            for warning in found["warnings"]:
                console.print(f"  {label}: {warning}", markup=False, style="yellow")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"models": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
