"""Power rails that the board measures itself, and counters of energy.

Jetsons have INA3221 monitors behind hwmon (Documentation/hwmon/ina3221.rst): `inN_input` in mV, `currN_input` in mA,
`inN_label` the rail. VDD_IN is all of an Orin Nano or NX; an AGX Orin has no such rail, only its parts. PCs have
RAPL behind powercap (Documentation/power/powercap/powercap.rst): `energy_uj`, which wraps at
`max_energy_range_uj`, and which since Linux 5.10 only root can read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from targets.board.files import each, number, text

UNUSED = "NC"  # "not connected", the label of a channel without a rail
TOTALS = ("VDD_IN", "POM_5V_IN", "VIN", "package-0")  # rails that hold the others, best first


def powers_mw(root: Path) -> Dict[str, float]:
    """Milliwatts by rail, now."""
    found: Dict[str, float] = {}
    for folder in each(root, "sys/class/hwmon/hwmon*"):
        chip = text(folder / "name") or folder.name
        for path in each(folder, "power[0-9]*_input"):
            microwatts = number(path)
            if microwatts is not None:
                found[_label(folder, path.name[: -len("_input")], chip)] = microwatts / 1e3
        for path in each(folder, "curr[0-9]*_input"):
            channel = path.name[len("curr") : -len("_input")]
            volts, amperes = number(folder / f"in{channel}_input"), number(path)
            name = _label(folder, f"in{channel}", chip)
            if volts is not None and amperes is not None and name != UNUSED:
                found.setdefault(name, volts * amperes / 1e3)
    return found


Counters = Dict[str, Tuple[float, float]]  # rail -> microjoules, where the counter wraps


def counters_uj(root: Path) -> Counters:
    """Energy counters by zone, "package-0", "package-0/core" …, each with its range; empty where unreadable."""
    found: Counters = {}
    for folder in each(root, "sys/class/powercap/*:[0-9]*"):
        energy, largest = number(folder / "energy_uj"), number(folder / "max_energy_range_uj")
        if energy is not None:
            found[_zone(root, folder)] = (energy, largest or 0.0)
    return found


def spent_uj(before: Mapping[str, Tuple[float, float]], after: Mapping[str, Tuple[float, float]]) -> Dict[str, float]:
    """Microjoules between two readings, each counter having wrapped once at most."""
    spent = {}
    for name, (end, largest) in after.items():
        if name in before:
            start = before[name][0]
            spent[name] = end - start if end >= start else end - start + largest
    return spent


def total(rails: Mapping[str, float]) -> Optional[str]:
    """The rail that holds the others; None where none does."""
    return next((name for name in TOTALS if name in rails), None)


def _label(folder: Path, channel: str, chip: str) -> str:
    return text(folder / f"{channel}_label") or f"{chip} {channel}"


def _zone(root: Path, folder: Path) -> str:
    """A zone's name behind its parents': intel-rapl:0:1 is the second part of package 0."""
    control, *numbers = folder.name.split(":")
    steps = [":".join([control, *numbers[: i + 1]]) for i in range(len(numbers))]
    return "/".join(text(folder.with_name(step) / "name") or step for step in steps)
