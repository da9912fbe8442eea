"""Clocks and governors: cpufreq for cores, devfreq for a Jetson's GPU and accelerators.

Documentation/admin-guide/pm/cpufreq.rst and Documentation/ABI/testing/sysfs-class-devfreq of the kernel; a Jetson
Orin's GPU is `17000000.ga10b` up to JetPack 5 (L4T 35) and `17000000.gpu` from JetPack 6 (L4T 36) on.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterator, Tuple

from targets.board.files import each, number, text

CORES = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
DEVICES = "sys/class/devfreq/*"
GPU = re.compile(r"ga10b|gv11b|gp10b|gm20b|gpu")
Range = Tuple[float, float]


def clocks_mhz(root: Path) -> Dict[str, float]:
    """Clock of each core, and of each devfreq device, in MHz, now."""
    found = {name: number(folder / "scaling_cur_freq") for name, folder in _cores(root)}
    known = {name: khz / 1e3 for name, khz in found.items() if khz is not None}
    if not known:
        known = _of_cpuinfo(root)
    for name, folder in _devices(root):
        hz = number(folder / "cur_freq")
        if hz is not None:
            known[name] = hz / 1e6
    return known


def limits_mhz(root: Path) -> Dict[str, Range]:
    """Lowest and highest clock that each may take, in MHz: what power modes and locks set."""
    found: Dict[str, Range] = {}
    ends = [(n, f / "scaling_min_freq", f / "scaling_max_freq", 1e3) for n, f in _cores(root)]
    ends += [(n, f / "min_freq", f / "max_freq", 1e6) for n, f in _devices(root)]
    for name, low, high, unit in ends:
        least, most = number(low), number(high)
        if least is not None and most is not None:
            found[name] = (least / unit, most / unit)
    return found


def governors(root: Path) -> Dict[str, str]:
    """Governor of each core and each devfreq device."""
    found = {name: text(folder / "scaling_governor") for name, folder in _cores(root)}
    found.update({name: text(folder / "governor") for name, folder in _devices(root)})
    return {name: governor for name, governor in found.items() if governor}


def is_core(name: str) -> bool:
    """Whether a clock is a processor core's."""
    return re.fullmatch(r"cpu\d+", name) is not None


def _cores(root: Path) -> Iterator[Tuple[str, Path]]:
    for folder in each(root, CORES):
        yield folder.parent.name, folder


def _devices(root: Path) -> Iterator[Tuple[str, Path]]:
    """A Jetson's GPU is "gpu" under every version; its other engines keep their names ("15880000.nvdla0")."""
    for folder in each(root, DEVICES):
        name = text(folder / "name") or folder.name
        yield ("gpu" if GPU.search(name) else name), folder


def _of_cpuinfo(root: Path) -> Dict[str, float]:
    """What /proc/cpuinfo of an x86 says where there is no cpufreq, as in most virtual machines."""
    words = text(root / "proc/cpuinfo") or ""
    cores = re.findall(r"^processor\s*:\s*(\d+)$", words, re.MULTILINE)
    mhz = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", words, re.MULTILINE)
    return {f"cpu{core}": float(value) for core, value in zip(cores, mhz)}
