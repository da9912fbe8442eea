"""Setting what holds a board still, and how to undo each: power mode, locked clocks, governor.

nvpmodel and jetson_clocks as in the "Jetson Linux Developer Guide, Platform Power and Performance" (L4T 35 and 36).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Optional, Union

from targets.base import TargetError
from targets.board import programs
from targets.board.clocks import CORES
from targets.board.files import ROOT, each, text

CONFIG = "etc/nvpmodel.conf"
MODE = re.compile(r"NV Power Mode:\s*(?P<name>\S+)\s+(?P<number>\d+)")
DEFINED = re.compile(r"^<\s*POWER_MODEL\s+ID=(?P<number>\d+)\s+NAME=(?P<name>\S+)\s*>", re.MULTILINE)
FASTEST = "performance"
Undo = Callable[[], None]


@dataclass(frozen=True)
class Mode:
    """A power mode of nvpmodel."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} ({self.number})"


def parse(said: str) -> Optional[Mode]:
    """Read what `nvpmodel -q` prints: "NV Power Mode: MAXN" and its number on the next line."""
    found = MODE.search(said)
    return Mode(found["name"], int(found["number"])) if found else None


def current(root: Path = ROOT) -> Optional[Mode]:
    """The power mode a Jetson is in; None where there is no nvpmodel, or it will not say."""
    if not programs.has(root, programs.NVPMODEL):
        return None
    try:
        return parse(programs.run(root, programs.NVPMODEL, "-q", privileged=False))
    except TargetError:
        return None


def defined(root: Path) -> Dict[str, Mode]:
    """The modes that this board knows, by name."""
    found = DEFINED.finditer(text(root / CONFIG) or "")
    return {one["name"]: Mode(one["name"], int(one["number"])) for one in found}


def set_power_mode(wanted: Union[str, int], root: Path = ROOT) -> Undo:
    """Switch to a mode, by name or number; return how to go back. Raises TargetError if it does not take.

    Some modes take effect only after a reboot (on Orin, where the count of GPU clusters changes): nvpmodel then
    asks, hears nothing, and stays. That is told, not forced.
    """
    before = current(root)
    if before is None:
        raise TargetError(
            f"power_mode {wanted!r}: this board has no power modes ({root / programs.NVPMODEL} -q says none); "
            "leave power_mode out"
        )
    mode = _find(wanted, root)
    if mode.number == before.number:
        return lambda: None
    said = programs.run(root, programs.NVPMODEL, "-m", str(mode.number))
    now = current(root)
    if now is None or now.number != mode.number:
        raise TargetError(
            f"power_mode {mode}: the board stays in {now}; some modes need a reboot: sudo nvpmodel -m {mode.number}; "
            f"nvpmodel said: {' '.join(said.split())[-200:] or 'nothing'}"
        )
    return lambda: _go_back(before, root)


def lock_clocks(root: Path = ROOT) -> Undo:
    """Pin clocks to their highest: with jetson_clocks, elsewhere with the governor "performance".

    Returns how to go back. Raises TargetError where neither is there or allowed.
    """
    if programs.has(root, programs.JETSON_CLOCKS):
        return _jetson_clocks(root)
    files = [folder / "scaling_governor" for folder in each(root, CORES)]
    before = {path: text(path) for path in files}
    if not before:
        raise TargetError("lock_clocks: neither jetson_clocks nor cpufreq is here (a virtual machine?); leave it out")
    undo = _governors({path: governor for path, governor in before.items() if governor})
    try:
        for path in files:
            programs.write(path, FASTEST)
    except TargetError:
        undo()
        raise
    return undo


def _find(wanted: Union[str, int], root: Path) -> Mode:
    known = defined(root)
    for mode in known.values():
        if wanted == mode.number or str(wanted).casefold() in (mode.name.casefold(), str(mode.number)):
            return mode
    have = ", ".join(map(str, known.values())) or f"none in {root / CONFIG}"
    raise TargetError(f"power_mode {wanted!r}: no such mode on this board; have: {have}")


def _go_back(mode: Mode, root: Path) -> None:
    programs.run(root, programs.NVPMODEL, "-m", str(mode.number))
    now = current(root)
    if now != mode:
        raise TargetError(f"the board could not be put back to power mode {mode}: it is in {now}")


def _jetson_clocks(root: Path) -> Undo:
    folder = Path(tempfile.mkdtemp(prefix="edgesmith-clocks-"))
    stored = folder / "l4t_dfs.conf"  # a fresh name: --store asks before it overwrites
    programs.run(root, programs.JETSON_CLOCKS, "--store", str(stored))

    def undo() -> None:
        programs.run(root, programs.JETSON_CLOCKS, "--restore", str(stored))
        shutil.rmtree(folder, ignore_errors=True)

    try:
        programs.run(root, programs.JETSON_CLOCKS)
    except TargetError:
        undo()
        raise
    return undo


def _governors(before: Dict[Path, str]) -> Undo:
    def undo() -> None:
        for path, governor in before.items():
            programs.write(path, governor)

    return undo
