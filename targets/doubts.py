"""What makes a measurement doubtful, in words: found in its samples, and in what else the device did meanwhile."""

from __future__ import annotations

from math import isfinite
from statistics import mean
from typing import TYPE_CHECKING, Any, List, Mapping, Sequence, Tuple

from targets.changes import autocorrelation, likeliest
from targets.intervals import uncertainty
from targets.stats import coefficient_of_variation, quantile

if TYPE_CHECKING:
    from targets.devices.base import Measurement, Timing

UNSTABLE = 0.05  # coefficient of variation of the rounds' medians; asv and pyperf warn at 5 and 10%
INTRUDERS = 0.1  # of a core: other work on the cores that were timed on
LAG_S = 0.03  # that the kernel's count of busy time is behind, or ahead, of a process's own
COARSE = 0.01  # a clock's step, as a share of the median
SURE, DRIFT = 0.01, 0.02  # that the rounds' medians change, and by how much
ALIKE = 0.5  # rank correlation of successive calls


def disturbances(
    before: Mapping[str, Any], after: Mapping[str, Any], cores: Sequence[int], own_s: float
) -> Tuple[str, ...]:
    """What else happened on the device between two answers to `usage`, while contestants used `own_s` of processor.

    `cores` are those that were timed on; none for all.
    """
    found = []
    busy = after["busy_s"]
    watched = [str(core) for core in cores] or list(busy)
    work_s = sum(busy.get(core, 0.0) - before["busy_s"].get(core, 0.0) for core in watched)
    wall_s = max(1e-9, after["now_s"] - before["now_s"])
    if busy and work_s - own_s > INTRUDERS * wall_s + LAG_S:
        where = f"core {', '.join(watched)}" if cores else f"{len(watched)} cores"
        found.append(f"other processes used {(work_s - own_s) / wall_s:.1f} of {where} while timing")
    slower = after["throttled"] - before["throttled"]
    if slower > 0:
        found.append(f"the cores were slowed down for their heat {slower} times while timing")
    return tuple(found)


def unsteady(blocks_ns: Sequence[Sequence[int]]) -> bool:
    """Whether the medians of these rounds vary more than they should."""
    return coefficient_of_variation([quantile(block, 0.5) for block in blocks_ns]) > UNSTABLE


def between(disturbed: Sequence[Sequence[str]], retried: int) -> Tuple[str, ...]:
    """What disturbed the launches that were kept, and how many were replaced."""
    found = []
    hit = [reasons for reasons in disturbed if reasons]
    if hit:
        found.append(f"{hit[0][0]} ({len(hit)} of {len(disturbed)} launches were disturbed)")
    if retried:
        found.append(f"{retried} disturbed {'launch was' if retried == 1 else 'launches were'} timed again")
    return tuple(found)


def about(found: Measurement, timing: Timing, steady: bool, clock_ns: int) -> List[str]:
    """What is doubtful in one artifact's own samples."""
    said = []
    medians = [quantile(block, 0.5) for block in found.blocks_ns]
    middle = quantile([ns for block in found.blocks_ns for ns in block], 0.5)
    if not steady:
        said.append(f"latency had not settled after {sum(found.warmup_ns) / 1e9:.1f} s of warm-up")
    if clock_ns > COARSE * middle:
        said.append(f"the clock's step of {clock_ns} ns is coarse for a median of {middle:.0f} ns: time a larger batch")
    samples = sum(map(len, found.blocks_ns))
    if samples < timing.samples:
        said.append(f"{samples} of {timing.samples} samples within the limit of {timing.max_s:g} s")
    spread = coefficient_of_variation(medians)
    if spread > UNSTABLE:
        said.append(f"unstable: the medians of the rounds vary by {spread:.0%} (standard deviation / mean)")
    said += _moving(medians, found.blocks_ns)
    known = uncertainty(found.launches_ns, timing.quantile)
    if timing.precision and known > timing.precision:
        name = f"p{100 * timing.quantile:g}"
        how = f"is known to ±{known:.1%}" if isfinite(known) else "is not bounded at 95% by so few samples"
        said.append(f"{name} {how}, not to the ±{timing.precision:.1%} asked for")
    return said


def _moving(medians: Sequence[float], blocks_ns: Sequence[Sequence[int]]) -> List[str]:
    """Drift over the rounds, and calls that hang together."""
    said = []
    if len(medians) > 1:
        change = likeliest(medians)
        if change.p < SURE and abs(change.shift) > DRIFT:
            word = "rose" if change.shift > 0 else "fell"
            said.append(f"drift: the median {word} by {abs(change.shift):.0%} after round {change.index}")
    alike = mean(autocorrelation(block) for block in blocks_ns)
    if alike > ALIKE:
        said.append(f"successive calls hang together (rank correlation {alike:.1f}): the machine's state is changing")
    return said
