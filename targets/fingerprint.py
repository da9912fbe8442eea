"""The fingerprint of this machine: everything a latency depends on but the model. No host name, no user."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Dict, List

from targets.backends._cuda import gpus
from targets.base import Target
from targets.board import modes
from targets.board.clocks import limits_mhz
from targets.board.emulation import emulator
from targets.board.files import ROOT
from targets.cpuinfo import cpu_features, cpu_model, governor, usable_cores
from targets.devices.base import Fingerprint

DEVICE_TREE = Path("/proc/device-tree")


def fingerprint(target: Target) -> Fingerprint:
    """Describe this machine and the runtime of `target`. Raises TargetError if that is not installed."""
    libc = " ".join(platform.libc_ver()).strip() or "libc unknown"
    return Fingerprint(
        machine=platform.machine(),
        cpu=cpu_model(),
        cores=len(usable_cores()),
        features=cpu_features(),
        governor=governor(),
        system=f"{platform.system()} {platform.release()}, {libc}",
        python=platform.python_version(),
        runtime=target.versions(),
        accelerator=accelerator(),
        power_mode=str(modes.current() or ""),
        clocks=clock_ranges(),
        emulator=emulator(),
    )


def clock_ranges(root: Path = ROOT) -> Dict[str, str]:
    """The range that each clock may take, of cores that have the same together: power modes and locks set it."""
    alike: Dict[str, List[str]] = {}
    for name, (low, high) in limits_mhz(root).items():
        alike.setdefault(f"{low:.0f}-{high:.0f} MHz", []).append(name)
    return {" ".join(names): words for words, names in alike.items()}


def accelerator() -> str:
    """The Jetson module or the first NVIDIA GPU with its compute capability; "" for neither."""
    module = tegra_module()
    if module:
        return module
    return next((f"{gpu.name} (compute capability {gpu.capability})" for gpu in gpus()), "")


def tegra_module(tree: Path = DEVICE_TREE) -> str:
    """Name of the Jetson module that this is, as its device tree says; "" elsewhere."""
    compatible, model = tree / "compatible", tree / "model"
    if not compatible.is_file() or b"nvidia,tegra" not in compatible.read_bytes():
        return ""
    name = model.read_bytes().rstrip(b"\0").decode(errors="replace") if model.is_file() else "unknown module"
    return f"NVIDIA Tegra: {name}"
