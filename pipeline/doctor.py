"""Is this machine fit for the job?"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from typing import Literal

from pipeline import plugins
from pipeline.fingerprint import OURS
from targets.base import Target, TargetError
from targets.devices.local import Local

INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
FREE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    level: Literal["ok", "note", "bad"]
    what: str
    found: str


def examine() -> list[Finding]:
    """Look at everything; nothing is changed."""
    return [*_overlaps(), *_cpu(), *_runtimes(), *_disk()]


def _overlaps() -> Iterator[Finding]:
    """Our packages have plain names, which another distribution may have too."""
    owners = packages_distributions()
    for package in OURS:
        others = sorted(set(owners.get(package, [])) - {"edgesmith"})
        if others:
            fix = f"pip uninstall {others[0]}, or give edgesmith a virtual environment of its own"
            yield Finding("bad", f"package {package}", f"{', '.join(others)} installs one of the same name: {fix}")
        else:
            yield Finding("ok", f"package {package}", "ours alone")


def _cpu() -> Iterator[Finding]:
    machine = Local().fingerprint(plugins.find("targets.backends", "cpu", Target)())
    yield Finding("ok", "cpu", f"{machine.cpu}, {machine.cores} cores usable")
    fast = [name for name in INT8 if name in machine.features]
    if fast:
        yield Finding("ok", "int8 instructions", ", ".join(fast))
    else:
        yield Finding("note", "int8 instructions", "none of VNNI, AMX, dot product: int8 may not be faster here")
    if machine.governor not in ("performance", "unknown"):
        fix = "cpupower frequency-set -g performance"
        yield Finding("note", "cpu governor", f"{machine.governor}: latencies will vary; try {fix}")
    load = os.getloadavg()[0]
    if load > 0.5 * machine.cores:
        yield Finding("note", "load", f"{load:.1f} on {machine.cores} cores: other work disturbs what is timed")


def _runtimes() -> Iterator[Finding]:
    for name in plugins.names("targets.backends"):
        target = plugins.find("targets.backends", name, Target)()
        try:
            versions = ", ".join(f"{k} {v}" for k, v in target.versions().items())
        except TargetError as error:
            yield Finding("note", f"target {name}", str(error))
            continue
        why_not = target.runs_here()
        if why_not:
            yield Finding("note", f"target {name}", f"{versions or 'bundle only'}; cannot run here: {why_not}")
        else:
            yield Finding("ok", f"target {name}", versions)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    level: Literal["ok", "note"] = "ok" if free > FREE_BYTES else "note"
    yield Finding(level, "disk", f"{free / 1e9:.1f} GB free here")
