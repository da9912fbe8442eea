"""The table of what `criteria.py` found."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich.table import Table

T95 = {3: 4.30, 4: 3.18, 5: 2.78}  # Student's t, two-sided 95%, by number of seeds

Cell = dict[str, Any]
Line = list[str]


def rows(found: dict[str, list[Cell]], shares: Sequence[float], trained_at: float) -> list[Line]:
    """One line per engine and criterion, the best with fresh statistics first."""
    kinds: dict[str, list[Cell]] = {}
    for key, cells in found.items():
        kinds.setdefault(key.rpartition(":")[0], []).extend(cells)
    ordered = sorted(kinds.items(), key=lambda item: -_standing(item[1], trained_at))
    return [_line(kind, cells, shares) for kind, cells in ordered]


def _standing(cells: list[Cell], trained_at: float) -> float:
    at = [c for c in cells if c.get("share", trained_at) == trained_at]
    values = [c.get("whole", c.get("recalibrated", c.get("trained"))) for c in at]
    known = [v for v in values if v is not None]
    return mean(known) if known else 0.0


def _line(kind: str, cells: list[Cell], shares: Sequence[float]) -> Line:
    """The figures of an engine's criterion."""
    engine, _, name = kind.partition(":")
    took = [c["score_s"] for c in cells if "score_s" in c]
    found = [engine, name, f"{mean(took):.1f}" if took else "–"]
    for share in shares:
        at = [c for c in cells if c.get("share") == share]
        found += [interval([c[what] for c in at if what in c]) for what in ("cut", "recalibrated")]
    trained = [c[what] for c in cells for what in ("whole", "trained") if what in c]
    return [*found, interval(trained), interval([c["distilled"] for c in cells if "distilled" in c])]


def interval(values: list[float]) -> str:
    """The mean in percent, and half of its 95% interval over seeds; of fewer than three the mean with a star."""
    if not values:
        return "–"
    if len(values) < 3:
        return f"{mean(values):.1%}"[:-1] + "*"
    half = T95.get(len(values), 2.0) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.1%}"[:-1] + f" ± {half:.1%}"[:-1]


def columns(shares: Sequence[float], trained_at: float) -> Line:
    """The head of the table."""
    figures = [f"{share:.0%} {what}" for share in shares for what in ("cut", "BN")]
    return ["engine", "criterion", "scoring s", *figures, f"{trained_at:.0%} trained", "distilled"]


def table(lines: list[Line], shares: Sequence[float], trained_at: float) -> Table:
    """The results on a terminal."""
    made = Table(
        *columns(shares, trained_at),
        title="top-1 in %, mean ± half of the 95% interval over seeds; *: fewer than three seeds",
    )
    for line in lines:
        made.add_row(*line)
    return made


def markdown(lines: list[Line], shares: Sequence[float], trained_at: float) -> str:
    """The results for the docs."""
    head = columns(shares, trained_at)
    rule = "---|" * 2 + "--:|" * (len(head) - 2)
    return f"| {' | '.join(head)} |\n|{rule}\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
