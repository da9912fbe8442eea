"""Every pruning criterion on the built-in ResNet-20, beside Torch-Pruning's of the same name, `random`, and scratch.

For every criterion, share of multiply-accumulates removed and seed: top-1 on test images as cut, after the BatchNorm
statistics are measured anew, and, at one of the shares, after a short finetune. A seed chooses the images that are
scored on, the scores of `random`, and the order of the finetune. All are cut to the same widths, which do not depend
on the criterion (scope local); Torch-Pruning is given these widths. "scratch" is the pruned network trained from new
weights on as many images as the finetune sees, "whole" the network that is pruned. Some are finetuned a second time,
with distillation from it. Learning criteria train first, two passes over 4,096 images, gates twenty over 512; kl scores
on 64 images, the others on 256. What scoring takes is in seconds of one processor. Results are kept after every
criterion and seed: run again to go on.

    python benchmarks/criteria.py [--criteria l1 taylor …] [--seeds N] [--jobs N] [--json FILE] [--markdown FILE]

Torch-Pruning takes part where it is installed: `pip install '.[bench]'`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import criteria_peer
from benchmarks.builtin import dense
from benchmarks.criteria_table import Cell, markdown, rows, table
from pipeline.data.base import Data, Split
from pipeline.data.fashion_mnist import load
from pipeline.plugins import names
from pipeline.pruning import PruneResult, Samples, prune, score
from pipeline.pruning.ranking import CRITERIA, criterion_of
from pipeline.training.batchnorm import recalibrate
from pipeline.training.config import Distillation, Training
from pipeline.training.distill import Distilled
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import fit

SHARES = (0.3, 0.5, 0.7)  # of the multiply-accumulates
TRAINED_AT = 0.5
SCORED_ON = 256
SHORT = Training(epochs=1, batch_size=128, lr=0.02, warmup=0.0, label_smoothing=0.05)
# learning criteria see more images; kl, which runs part of the network per channel, fewer
IMAGES = {"kl": 64, "gates": 512, "slimming": 4096, "group_sparse": 4096}
OPTIONS: dict[str, dict[str, Any]] = {name: {"epochs": 2} for name in ("slimming", "group_sparse")}
DISTILLED = ("l1", "lasso")  # what is also finetuned with a teacher
TAUGHT = Distillation(response=0.9, hard=0.1)


@dataclass(frozen=True)
class Job:
    """One engine's criterion with one seed: scored once, cut to every share."""

    engine: str
    criterion: str
    seed: int
    images: int  # of the finetune
    tested: int
    shares: tuple[float, ...] = SHARES

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.engine}:{self.criterion}:{self.seed}"


def main() -> None:
    """Run what is missing, and print."""
    args = arguments()
    console = Console()
    console.width = max(console.width, 150)
    found: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    todo = [rest for job in jobs(args) if (rest := unfinished(job, found.get(job.key)))]
    try:
        for job, cells in finished(todo, args.jobs):
            found[job.key] = found.get(job.key, []) + cells
            console.print(f"{job.key}  {len(found)} done", highlight=False)
            if args.json:
                keep(args.json, found)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here" if args.json else "interrupted")
    lines = rows(found, args.shares, TRAINED_AT)
    console.print(table(lines, args.shares, TRAINED_AT))
    if args.markdown:
        args.markdown.write_text(markdown(lines, args.shares, TRAINED_AT), encoding="utf-8")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--criteria", nargs="+", default=names(CRITERIA), choices=names(CRITERIA))
    parser.add_argument("--engines", nargs="+", default=["edgesmith", "torch-pruning"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the MACs, that go")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread at a time")
    parser.add_argument("--images", type=int, default=2000, help="that a finetune sees")
    parser.add_argument("--tested", type=int, default=1000, help="test images that top-1 is of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are kept")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where the table goes as Markdown")
    return parser.parse_args()


def jobs(args: argparse.Namespace) -> list[Job]:
    """All that is to be done, the seeds of a criterion apart, so that a run cut short has the first seed of all."""
    peers = [("torch-pruning", name) for name in criteria_peer.NAMES] if find_spec("torch_pruning") else []
    ours = [("edgesmith", name) for name in ("whole", "scratch", *args.criteria)]
    engines = [(e, name) for e, name in ours + peers if e in args.engines]
    todo = ((seed, *which) for seed in range(args.seeds) for which in engines)
    return [Job(e, name, seed, args.images, args.tested, tuple(args.shares)) for seed, e, name in todo]


def unfinished(job: Job, cells: list[Cell] | None) -> Job | None:
    """What is left to do of a job that has cells; None if nothing is."""
    if cells is None:
        return job
    if job.criterion == "whole":
        return None
    have = {c["share"] for c in cells if "share" in c}
    wanted = {TRAINED_AT} if job.criterion == "scratch" else set(job.shares)
    return replace(job, shares=tuple(sorted(wanted - have))) if wanted - have else None


def finished(todo: list[Job], processes: int) -> Iterator[tuple[Job, list[Cell]]]:
    """Yield jobs as they end. On Ctrl-C those that have not begun are dropped."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, job): job for job in todo}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(found, indent=1))
    beside.replace(path)


def run(job: Job) -> list[Cell]:
    """Score, and cut to every share."""
    torch.set_num_threads(1)
    data = load()
    start_s = time.perf_counter()
    if job.criterion == "whole":
        return [{"whole": evaluate(dense(), Part(data.test, job.tested)).top1}]
    pruned = scratch if job.criterion == "scratch" else ours if job.engine == "edgesmith" else criteria_peer.peer
    return [
        {"share": share, "score_s": score_s, **measured(model, data, job, share, rounds)}
        for share, model, score_s, rounds in pruned(job, data, dense())
    ] + [{"wall_s": time.perf_counter() - start_s}]


Cut = tuple[float, nn.Module, float, bool]  # share, the pruned model, seconds it took to score, whether to recalibrate


def ours(job: Job, data: Data, model: nn.Module) -> Iterator[Cut]:
    """Our criterion of the name."""
    seen = samples(data, job.seed, IMAGES.get(job.criterion, SCORED_ON))
    options = dict(OPTIONS.get(job.criterion, {}))
    if "seed" in getattr(criterion_of(job.criterion, {}), "__dataclass_fields__", {}):
        options["seed"] = job.seed
    settings: dict[str, Any] = {"criterion": job.criterion, "criterion_options": options}
    start_s = time.process_time()
    scored = score(model, example(), seen, **settings)
    took_s = time.process_time() - start_s
    for share in job.shares:
        cut = prune(model, example(), samples=seen, scored=scored, ratio=share, target="macs", **settings)
        yield share, cut.model, took_s, True


def scratch(job: Job, data: Data, model: nn.Module) -> Iterator[Cut]:
    """The pruned network with new weights."""
    for module in (new := widths(model, TRAINED_AT).model).modules():
        if hasattr(module, "reset_parameters"):
            torch.manual_seed(job.seed)
            module.reset_parameters()
    yield TRAINED_AT, new, 0.0, False


def widths(model: nn.Module, share: float) -> PruneResult:
    """The widths that every criterion is cut to."""
    return prune(model, example(), ratio=share, target="macs")


def measured(model: nn.Module, data: Data, job: Job, share: float, recalibrated: bool) -> Cell:
    """Top-1 as cut, with fresh BatchNorm statistics, and trained."""
    tested = Part(data.test, job.tested)
    cell: Cell = {"cut": evaluate(model, tested).top1}
    if recalibrated:
        recalibrate(model, data.train, 8, seed=job.seed)
        cell["recalibrated"] = evaluate(model, tested).top1
    if share == TRAINED_AT:
        taught = deepcopy(model) if job.criterion in DISTILLED and job.engine == "edgesmith" else None
        train(model, data, job)
        cell["trained"] = evaluate(model, tested).top1
        if taught is not None:
            train(taught, data, job, TAUGHT)
            cell["distilled"] = evaluate(taught, tested).top1
    return cell


def train(model: nn.Module, data: Data, job: Job, distillation: Distillation | None = None) -> None:
    """Finetune in place, for one pass."""
    small = replace(data, validation=Part(data.validation, 500))
    config = replace(SHORT, epoch_size=job.images, seed=job.seed)
    objective = Distilled(distillation, config, model, dense(), example()) if distillation else None
    with tempfile.TemporaryDirectory() as folder:
        fit(model, small, config, Path(folder), objective=objective)


@dataclass(frozen=True)
class Part:
    """The first samples of a split."""

    split: Split
    n: int

    def __len__(self) -> int:
        return min(self.n, len(self.split))

    def __getitem__(self, index: Any, /) -> Any:
        return self.split[np.arange(len(self))[index]]


def example() -> torch.Tensor:
    """What it is captured on."""
    return torch.zeros(2, 1, 28, 28)


def samples(data: Data, seed: int, n: int) -> Samples:
    """Images of the training split, other ones for every seed."""
    x, y = data.train[np.random.default_rng(seed).permutation(len(data.train))[:n]]
    return Samples.of(torch.from_numpy(x), torch.from_numpy(y), batch_size=64)


if __name__ == "__main__":
    main()
