"""What this process and its machine have used so far, and which cores a process should keep to."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple

from targets.cpuinfo import usable_cores

STAT = Path("/proc/stat")
CPU = Path("/sys/devices/system/cpu")
TICKS_PER_S = 100  # USER_HZ, fixed by the kernel's interface
LOOK_S = 0.1  # ten of the kernel's ticks


def usage(children: bool = False) -> Dict[str, Any]:
    """All counters, as the order `usage` tells them; differences of two say what happened between.

    `busy_s`: core -> seconds that it worked since boot, for anyone; time stolen by the hypervisor included. Empty
    where the system does not say. `throttled`: how often the cores slowed down for their heat. `children`: the model
    runs in processes that this one starts, and the peak of memory is theirs.
    """
    return {
        "now_s": time.monotonic(),
        "cpu_s": time.process_time(),
        "memory_peak_bytes": memory_peak_bytes(children),
        "busy_s": {str(core): seconds for core, seconds in busy_s().items()},
        "cores": list(usable_cores()),
        "throttled": throttled(),
    }


def memory_peak_bytes(children: bool = False) -> int:
    """Return the largest resident set this process has had, or any that it started and that has ended."""
    unit = 1 if sys.platform == "darwin" else 1024
    if children:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    # VmHWM belongs to this program; ru_maxrss starts from the parent's size across fork and exec.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def busy_s(stat: Path = STAT) -> Dict[int, float]:
    """Seconds that each core has worked since boot."""
    found: Dict[int, float] = {}
    if stat.is_file():
        for line in stat.read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit():
                user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                found[int(name[3:])] = (user + nice + system + irq + softirq + steal) / TICKS_PER_S
    return found


def throttled(cpu: Path = CPU) -> int:
    """How often the cores have been slowed down for their heat since boot; 0 where the system does not count."""
    files = cpu.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(int(file.read_text()) for file in files)


def quietest(count: int, look_s: float = LOOK_S) -> Tuple[int, ...]:
    """The `count` usable cores to time on: the fastest kind, and of those the ones with the least other work now.

    Empty where there are not as many, or the system cannot keep a process on a core: then it may wander.
    """
    cores = usable_cores()
    if len(cores) < count or not hasattr(os, "sched_setaffinity"):
        return ()
    before = busy_s()
    time.sleep(look_s)
    after = busy_s()
    work = {core: after.get(core, 0.0) - before.get(core, 0.0) for core in cores}
    return ranked(cores, {core: capacity(core) for core in cores}, work)[:count]


def ranked(cores: Sequence[int], fast: Mapping[int, int], work: Mapping[int, float]) -> Tuple[int, ...]:
    """Cores, best first. Interrupts are served by the first ones, so that of equals the last one is best."""
    return tuple(sorted(cores, key=lambda core: (-fast[core], work[core], -core)))


def capacity(core: int, cpu: Path = CPU) -> int:
    """How fast a core is among those of this machine, as the kernel rates it; 0 where all are alike."""
    file = cpu / f"cpu{core}" / "cpu_capacity"
    return int(file.read_text()) if file.is_file() else 0


def pin(cores: Sequence[int]) -> Tuple[int, ...]:
    """Keep this process to `cores`, for the threads it starts from now on; return those that it may use."""
    wanted = [core for core in cores if core in usable_cores()]
    if wanted and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, wanted)
    return usable_cores()
