"""What factorising costs in accuracy: ResNet-20 on Fashion-MNIST by method and rule, without finetuning.

python benchmarks/lowrank.py [--methods svd tucker cp auto] [--energies 0.9 0.8] [--ignore conv1]
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.builtin import dense
from pipeline.data import fashion_mnist
from pipeline.data.base import Data
from pipeline.lowrank import Energy, factorize
from pipeline.training.batchnorm import recalibrate
from pipeline.training.evaluate import evaluate


def row(data: Data, method: str, energy: float, ignore: list[str]) -> str:
    """Factorise and measure; a line of the table."""
    start_s = time.perf_counter()
    result = factorize(dense(), torch.zeros(1, 1, 28, 28), method=method, ranks=Energy(energy), ignore=ignore)
    took_s = time.perf_counter() - start_s
    top1 = evaluate(result.model, data.validation).top1
    recalibrate(result.model, data.train, 16)
    again = evaluate(result.model, data.validation).top1
    changed = sum(bool(layer.ranks) for layer in result.layers)
    cells = (
        method,
        f"{energy:g}",
        f"{changed} of {len(result.layers)}",
        f"{result.macs_after / 1e6:.2f}M ({result.macs_after / result.macs_before:.1%})",
        f"{result.params_after / 1e3:.1f}k",
        f"{top1:.2%}",
        f"{again:.2%}",
        f"{took_s:.0f} s",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["svd", "tucker", "auto", "cp"])
    parser.add_argument("--energies", nargs="+", type=float, default=[0.95, 0.9, 0.8])
    parser.add_argument("--ignore", nargs="*", default=[])
    args = parser.parse_args()
    data = fashion_mnist.load()
    model = dense()
    print(f"source: top-1 {evaluate(model, data.validation).top1:.2%} on {len(data.validation)} validation images")
    print("| method | energy | layers | MACs | params | top-1 | top-1, BN recalibrated | took |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for method in args.methods:
        for energy in args.energies:
            print(row(data, method, energy, args.ignore), flush=True)


if __name__ == "__main__":
    main()
