"""Two artifacts against each other on one device: interleaved, in fresh processes, with a plain verdict."""

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.contenders import Contender, Wanted, contender, feeds
from pipeline.errors import UserError
from pipeline.progress import Progress
from targets import intervals, verdicts
from targets.devices.base import Fingerprint, Measurement, Timing
from targets.npz import save
from targets.stats import Interval
from targets.verdicts import Verdict

QUANTILES = (0.5, 0.9, 0.99)
SCHEMA = "edgesmith.comparison/1"


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    target: str
    size_bytes: int
    proxy: bool  # timed on another kind of device than its target is for
    fingerprint: Fingerprint
    measured: Measurement

    def time_ns(self, q: float) -> Interval:
        """A quantile of what is compared: of single calls, or of the time per call of all streams."""
        return intervals.quantile_of(self.measured.compared_ns, q)


@dataclass(frozen=True)
class Compared:
    """How A compares with B. The median decides; the others are told."""

    a: Side
    b: Side
    mode: str
    verdicts: tuple[Verdict, ...]

    @property
    def verdict(self) -> Verdict:
        """On the median."""
        return self.verdicts[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful of either, each once."""
        mine, theirs = self.a.measured.warnings, self.b.measured.warnings
        shared = [text for text in mine if text in theirs]
        own = [f"{key}: {text}" for key, said in (("A", mine), ("B", theirs)) for text in said if text not in shared]
        return (*shared, *own)

    def plain(self) -> dict[str, Any]:
        """All of it as JSON takes it, every sample included."""
        sides = {}
        for key, side in (("a", self.a), ("b", self.b)):
            times = {f"p{100 * v.q:g}_ns": asdict(side.time_ns(v.q)) for v in self.verdicts}
            sides[key] = {**asdict(side), **times}
        told = [{**asdict(verdict), "text": verdict.text} for verdict in self.verdicts]
        return {"schema": SCHEMA, "mode": self.mode, **sides, "verdicts": told, "warnings": list(self.warnings)}


def compare(a: Wanted, b: Wanted, timing: Timing, within: float, progress: Progress) -> Compared:
    """Find or build both, time them interleaved, and judge. Raises UserError for what cannot be compared."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        sides = []
        for key, wanted in (("a", a), ("b", b)):
            (Path(folder) / key).mkdir()
            sides.append(contender(wanted, stack, Path(folder) / key))
        save(Path(folder) / "feeds.npz", feeds(*sides))
        first, second = sides
        built = {"a": (first.target, first.built), "b": (second.target, second.built)}
        with progress.bar(f"time {first.name} / {second.name}", timing.rounds) as bar:
            found = first.place.device.measure(built, Path(folder) / "feeds.npz", timing, bar.advance)
        mine, theirs = (_side(one, found[key]) for key, one in zip(("a", "b"), sides, strict=True))
    quantiles = QUANTILES if timing.mode == "latency" else QUANTILES[:1]
    ours, other = mine.measured.compared_ns, theirs.measured.compared_ns
    try:
        judged = tuple(verdicts.judge(ours, other, q, within) for q in quantiles)
    except ValueError as error:
        raise UserError(f"{error}: raise --rounds or --max-s") from error
    return Compared(mine, theirs, timing.mode, judged)


def _side(one: Contender, found: Measurement) -> Side:
    return Side(one.name, one.target.name(), one.size_bytes, one.place.proxy, one.place.fingerprint, found)
