"""Which layers of a model really run in int8, and why the others do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from targets.base import Kernel


@dataclass(frozen=True)
class Op:
    """An op of the ONNX file that int8 kernels exist for."""

    name: str
    kind: str  # e.g. "Conv"
    writes: Tuple[str, ...]  # its output, and what activations fused behind it write


@dataclass(frozen=True)
class Coverage:
    """How many ops of each kind run in int8, and of the others what keeps each in float."""

    int8: Mapping[str, int]  # kind -> ops in int8
    ops: Mapping[str, int]  # kind -> ops in all
    floats: Mapping[str, str]  # op -> why it is not in int8
    ran: bool  # read from what the runtime compiled; False: as placed, as nothing says what it compiled

    def line(self, most: int = 3) -> str:
        """Say it in one line, naming up to `most` ops for each reason: `51 of 53 Conv in int8; not: …`."""
        if not self.ops:
            return "no op that int8 kernels exist for"
        counts = ", ".join(f"{self.int8.get(kind, 0)} of {n} {kind}" for kind, n in self.ops.items())
        planned = "" if self.ran else " as placed (nothing ran here)"
        left = "; ".join(f"{_named(names, most)}, because {why}" for why, names in self._by_reason().items())
        return f"{counts} in int8{planned}" + (f"; not: {left}" if left else "")

    def _by_reason(self) -> Dict[str, List[str]]:
        found: Dict[str, List[str]] = {}
        for name, why in self.floats.items():
            found.setdefault(why, []).append(name)
        return found


def cover(ops: Sequence[Op], skipped: Mapping[str, str], kernels: Optional[Iterable[Kernel]]) -> Coverage:
    """Join what was placed with what ran.

    `skipped` says why ops were given no pairs, by name; `kernels` is what `Runner.kernels` tells of the built
    model, None where nothing can run it: then the placement is taken at its word.
    """
    ran = None if kernels is None else _by_name(kernels)
    floats: Dict[str, str] = {}
    for op in ops:
        why = _why_float(op, skipped.get(op.name), ran)
        if why is not None:
            floats[op.name] = why
    counted = Counter(op.kind for op in ops)
    int8 = Counter(op.kind for op in ops if op.name not in floats)
    return Coverage(dict(sorted(int8.items())), dict(sorted(counted.items())), floats, ran is not None)


def _named(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _by_name(kernels: Iterable[Kernel]) -> Dict[str, str]:
    """Precision by every name that a kernel goes under; a kernel in float wins over one in int8."""
    found: Dict[str, str] = {}
    for kernel in kernels:
        for name in kernel.names:
            if found.get(name, "i8") == "i8":
                found[name] = kernel.precision
    return found


def _why_float(op: Op, skipped: Optional[str], ran: Optional[Mapping[str, str]]) -> Optional[str]:
    """Why an op is not in int8; None if it is."""
    if ran is None:
        return skipped
    precision = next((ran[name] for name in (op.name, *op.writes) if name in ran), None)
    if precision == "i8":
        return None
    if skipped is not None:
        return skipped
    if precision is None:
        return "the runtime names no kernel of it: fused into another, or computed beforehand"
    return f"the runtime runs it in {precision}, although it has its pairs"
