"""The worked example from an empty store, on every target that runs here: minutes, size, speed, accuracy.

Compares what ships with the source model on the same target, runtime, thread and device: size of the shipped
files, ratio of medians from interleaved runs, top-1 over the whole test set. The source is in true fp32.

    python benchmarks/deploy.py [--targets cpu mobile] [--recipe FILE] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.report.files import read

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 110
COLUMNS = ("target", "cold s", "again s", "smaller", "faster p50", "95%", "top-1", "Δ points", "shipped")


def deploy(target: str, recipe: Path, folder: Path) -> float:
    """Deploy through the command line; return seconds."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "deploy", str(recipe)]
    command += ["--target", target, "--store", str(folder / "store"), "--out", str(folder / "out")]
    start_s = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def bench(target: str, recipe: Path) -> dict[str, object]:
    """Deploy twice: from an empty store, and with everything there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cold_s, again_s = (deploy(target, recipe, folder) for _ in range(2))
        report = read(folder / "out" / recipe.stem / target)
    source, shipped = report.stages[0], report.stages[-1]
    speedup = shipped.speedup
    if speedup is None or shipped.device is None:
        raise SystemExit(f"{target} cannot run here: {shipped.verdict.text}")
    return {
        "target": target,
        "cold_s": cold_s,
        "again_s": again_s,
        "size_ratio": source.size_bytes / shipped.size_bytes,
        "speedup": speedup.model_dump(),
        "source_top1": source.metrics["top1"].model_dump(),
        "top1": shipped.metrics["top1"].model_dump(),
        "shipped": report.shipped,
        "p50_ms": {row.stage: row.latency.p50_ms.value for row in report.stages if row.latency},
        "versions": report.versions,
        "device": shipped.device.model_dump(),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["cpu", "mobile"])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "fashion_resnet20.yaml")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = [bench(target, args.recipe) for target in args.targets]
    table = Table(*COLUMNS, title=f"{args.recipe.stem}: what ships against the source")
    for r in results:
        speed, top1 = r["speedup"], r["top1"]
        points = 100 * (top1["value"] - r["source_top1"]["value"])
        table.add_row(
            r["target"],
            f"{r['cold_s']:.0f}",
            f"{r['again_s']:.1f}",
            f"{r['size_ratio']:.2f}×",
            f"{speed['value']:.2f}×",
            f"{speed['low']:.2f}–{speed['high']:.2f}",
            f"{top1['value']:.2%}",
            f"{points:+.2f}",
            r["shipped"],
        )
    console = Console()
    console.width = max(console.width, WIDTH)  # piped, it would be cut at 80
    console.print(table)
    for r in results:
        versions = ", ".join(f"{k} {v}" for k, v in r["device"]["fingerprint"]["runtime"].items())
        console.print(f"{r['target']}: {r['device']['fingerprint']['cpu']}, {versions}", markup=False)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
