"""What the CPU is and can do, from the kernel's own words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Dict, Tuple

# Instruction sets that decide which int8, bf16 and fp16 kernels a runtime picks, as the kernel names them.
X86 = "avx avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx_vnni avx_vnni_int8 avx512_bf16 avx512_fp16"
X86_TILES = "amx_tile amx_int8 amx_bf16 amx_fp16"
ARM = "asimd asimdhp asimddp i8mm bf16 sve sve2 svei8mm svebf16 sme sme2"
FEATURES = frozenset(f"{X86} {X86_TILES} {ARM}".split())
# Any of them adds products of u8 and s8 in int32 right away.
VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
CPUINFO = Path("/proc/cpuinfo")
CPUFREQ = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"


def cpu_model() -> str:
    """The CPU's model name; on Arm, where the kernel gives none, implementer and part numbers."""
    fields = cpuinfo_fields()
    if "model name" in fields:
        return fields["model name"]
    if "CPU part" in fields:
        return f"Arm implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return platform.processor() or platform.machine()


def cpu_features() -> Tuple[str, ...]:
    """Instruction sets of FEATURES that this CPU reports, sorted."""
    fields = cpuinfo_fields()
    words = f"{fields.get('flags', '')} {fields.get('Features', '')}".split()
    return tuple(sorted(FEATURES.intersection(words)))


def saturates_int8() -> bool:
    """Whether int8 kernels here add pairs of products in int16, which saturates: x86 without VNNI.

    Their instruction is VPMADDUBSW (onnxruntime#14642; oneDNN's "Nuances of int8 computations"). Arm's kernels
    widen first. False where the kernel does not tell what the CPU has.
    """
    found = cpu_features()
    return platform.machine() in ("x86_64", "AMD64") and "avx2" in found and not VNNI.intersection(found)


def usable_cores() -> Tuple[int, ...]:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def governor() -> str:
    """Frequency governor of the usable cores: one word, several if they differ, "unknown" without cpufreq."""
    files = [Path(CPUFREQ.format(core)) for core in usable_cores()]
    found = sorted({file.read_text().strip() for file in files if file.is_file()})
    return ",".join(found) or "unknown"


def cpuinfo_fields() -> Dict[str, str]:
    """First value of each field of /proc/cpuinfo; empty where there is none."""
    fields: Dict[str, str] = {}
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    return fields
