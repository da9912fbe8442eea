"""How often the intervals hold what a long run of this machine says, from launches recorded one by one."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from targets.backends.cpu import Cpu
from targets.devices.base import Timing
from targets.devices.local import Local
from targets.intervals import quantile_of, ratio
from targets.npz import save
from targets.stats import Interval

Launch = list[list[int]]
QUANTILES = (0.5, 0.9, 0.99)
TRIALS = 1000


def recorded(path: Path, model: Path, launches: int) -> list[tuple[Launch, Launch]]:
    """Launches of one model raced against itself, 3 rounds each; those that `path` lacks are run now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = path.read_text().splitlines() if path.is_file() else []
    with tempfile.TemporaryDirectory() as scratch, path.open("a") as file:
        folder = Path(scratch)
        (folder / "built").mkdir()
        Local().build(Cpu(), model, folder / "built")
        with Cpu().open(folder / "built") as runner:
            shapes = dict(runner.inputs)
        save(folder / "feeds.npz", {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
        both = {name: (Cpu(), folder / "built") for name in "ab"}
        for number in range(len(done), launches):
            timing = Timing(samples=252, rounds=3, launches=1, max_s=10, seed=number, precision=0.0, retries=0)
            found = Local().measure(both, folder / "feeds.npz", timing)
            file.write(json.dumps([found["a"].blocks_ns, found["b"].blocks_ns]) + "\n")
            file.flush()
    laps = [json.loads(line) for line in path.read_text().splitlines()[:launches]]
    return [(a, b) for a, b in laps]


def covered(laps: Sequence[tuple[Launch, Launch]], launches: int = 8) -> list[dict[str, Any]]:
    """Coverage of the whole recording's quantiles by short runs, which are 8 of its launches drawn by chance."""
    random = np.random.default_rng(0)
    drawn = [random.choice(len(laps), launches, replace=False) for _ in range(TRIALS)]
    rows = []
    for q in QUANTILES:
        truth = quantile_of([a for a, _ in laps], q).value
        found = [quantile_of([laps[i][0] for i in chosen], q) for chosen in drawn]
        rows.append(_row(f"p{100 * q:g}", launches, truth, found))
    for q in QUANTILES:
        truth = ratio([a for a, _ in laps], [b for _, b in laps], q).value
        found = [ratio([laps[i][0] for i in chosen], [laps[i][1] for i in chosen], q) for chosen in drawn]
        rows.append(_row(f"ratio of p{100 * q:g}", launches, truth, found))
    return rows


def _row(of: str, launches: int, truth: float, found: Sequence[Interval]) -> dict[str, Any]:
    hits = [one.low <= truth <= one.high for one in found]
    level = float(np.mean([one.level for one in found]))
    return {"of": of, "launches": launches, "covered": float(np.mean(hits)), "level": level}
