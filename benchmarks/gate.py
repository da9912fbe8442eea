"""How often the latency gate fails what is slower, and how often what is not; beside two usual ways.

    python benchmarks/gate.py [--minutes 120] [--trials 100] [--out benchmarks/results/gate.jsonl]

A trial measures a model of about 1 ms against one with 0, 2, 5 or 10% more layers of the same size: real work.
Conditions: quiet; one busy core; bursts; drift (benchmarks/gate_load.py). The gate measures as `edgesmith check`
does, with 13 s a trial at most. The peers' calls are measured in the same trial, one artifact after the other: "compare
the means of 20 runs with 5% margin", and the test of Mann and Whitney on 100 calls of each at 1%.

One line of JSON per trial, so it goes on where it was ended. Then trials are drawn anew from what was recorded:
stretches of successive launches, and stretches of the peers' calls.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gate_models, gate_replay, gate_trial
from benchmarks.gate_load import CONDITIONS
from pipeline.console import ConsoleProgress

FEWER = (2, 10)  # percent that are tried less often


def plan(trials: int) -> list[gate_trial.Trial]:
    """All trials, in an order drawn once: whatever a time limit leaves out, it leaves out evenly."""
    wanted = {percent: trials * 3 // 10 if percent in FEWER else trials for percent in gate_models.SLOWDOWNS}
    cells = itertools.product(CONDITIONS, gate_models.SLOWDOWNS)
    found = [gate_trial.Trial(c, percent, seed) for c, percent in cells for seed in range(wanted[percent])]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order]


def read(path: Path) -> list[dict[str, Any]]:
    """The trials recorded so far; a line that was cut off is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line is damaged; its trial is made again", file=sys.stderr)
    return found


def carry_out(trials: list[gate_trial.Trial], path: Path, minutes: float) -> None:
    """Run what has no result yet, until the time is up."""
    from rich.console import Console

    files = gate_models.prepare(path.parent / "gate_models")
    done = {f"{row['condition']}/{row['slowdown']}/{row['seed']}" for row in read(path)}
    todo = [trial for trial in trials if trial.key not in done]
    end_s = time.monotonic() + 60 * minutes
    with ConsoleProgress(Console(stderr=True)).bar("trials", len(todo)) as bar, path.open("a") as out:
        for trial in todo:
            if time.monotonic() > end_s:
                break
            out.write(json.dumps(gate_trial.run(trial, files)) + "\n")
            out.flush()
            bar.advance(1, trial.key)


def main() -> None:
    """Carry out, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument(
        "--trials", type=int, default=100, help="of 0% and of 5% in each condition; 30 per 100 of others"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gate.jsonl"))
    parser.add_argument("--resampled", type=int, default=2000, help="trials drawn anew, in each cell")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    carry_out(plan(args.trials), args.out, args.minutes)
    rows = read(args.out)
    print(gate_replay.table(rows))
    print(gate_replay.resampled_table(rows, args.resampled))


if __name__ == "__main__":
    main()
