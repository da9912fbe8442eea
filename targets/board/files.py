"""The kernel's small text files, under a root that a test may place elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Optional, Tuple, Union

ROOT = Path("/")


def text(path: Path) -> Optional[str]:
    """Contents without the ends; None where there is no such file, or the kernel will not tell.

    A sensor whose part is powered off answers EAGAIN (Jetson's CV zones), an unprivileged reader EACCES.
    """
    try:
        return path.read_text(errors="replace").strip("\0\n\t ")
    except OSError:
        return None


def number(path: Path) -> Optional[float]:
    """The number in a file; None where there is none."""
    found = text(path)
    try:
        return None if found is None else float(found)
    except ValueError:
        return None


def each(root: Path, pattern: str) -> Tuple[Path, ...]:
    """What matches under `root`, with 2 before 10."""
    return tuple(sorted(root.glob(pattern), key=_natural))


def _natural(path: Path) -> List[Tuple[int, Union[int, str]]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
