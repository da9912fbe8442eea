"""File systems of boards, as folders: what the kernel's documentation and public logs say that each has.

Orin: "Jetson Linux Developer Guide" of L4T 35 and 36, Platform Power and Performance; nv-ina3221 and soctherm-oc
drivers in NVIDIA's kernel tree. Not recorded by us: no such board was at hand.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

MEMINFO = "MemTotal: 8000000 kB\nMemAvailable: 5000000 kB\nSwapTotal: 2000 kB\nSwapFree: 2000 kB\n"


def tree(root: Path, files: Mapping[str, object]) -> Path:
    """Write files under `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def program(path: Path, script: str) -> None:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def cores(count: int, khz: int, low: int, high: int, governor: str = "schedutil") -> dict[str, object]:
    """Cpufreq of cores."""
    found: dict[str, object] = {}
    for core in range(count):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        found[f"{folder}/scaling_cur_freq"] = khz
        found[f"{folder}/scaling_min_freq"] = low
        found[f"{folder}/scaling_max_freq"] = high
        found[f"{folder}/scaling_governor"] = governor
    return found


def orin(root: Path, jetpack: int) -> Path:
    """A Jetson Orin Nano; zones and the GPU have other names from JetPack 6 on."""
    zones = ["CPU-therm", "GPU-therm", "CV0-therm", "tj-therm"]
    gpu = "17000000.ga10b"
    if jetpack >= 6:
        zones = ["cpu-thermal", "gpu-thermal", "cv0-thermal", "tj-thermal"]
        gpu = "17000000.gpu"
    files: dict[str, object] = {
        **cores(6, 1_190_400, 729_600, 1_510_400),
        f"sys/class/devfreq/{gpu}/cur_freq": 306_000_000,
        f"sys/class/devfreq/{gpu}/min_freq": 306_000_000,
        f"sys/class/devfreq/{gpu}/max_freq": 624_750_000,
        f"sys/class/devfreq/{gpu}/governor": "nvhost_podgov",
        "sys/class/hwmon/hwmon1/name": "ina3221",
        "sys/class/hwmon/hwmon3/name": "soctherm_oc",
        "sys/class/thermal/cooling_device0/type": "pwm-fan",
        "sys/class/thermal/cooling_device0/cur_state": 2,
        "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
        "sys/class/thermal/cooling_device1/cur_state": 0,
        "proc/meminfo": MEMINFO,
        "proc/loadavg": "0.52 0.58 0.59 1/467 12345",
    }
    for i, (name, celsius) in enumerate(zip(zones, (48_125, 46_500, -256_000, 48_125), strict=True)):
        zone = f"sys/class/thermal/thermal_zone{i}"
        files |= {f"{zone}/type": name, f"{zone}/temp": celsius}
        files |= {f"{zone}/trip_point_0_type": "critical", f"{zone}/trip_point_0_temp": 104_500}
        files |= {f"{zone}/trip_point_1_type": "passive", f"{zone}/trip_point_1_temp": 99_000}
    for channel, (rail, volts, amperes) in enumerate(
        [("VDD_IN", 4984, 1856), ("VDD_CPU_GPU_CV", 4984, 400), ("VDD_SOC", 4984, 320)], 1
    ):
        folder = "sys/class/hwmon/hwmon1"
        files |= {f"{folder}/in{channel}_label": rail, f"{folder}/in{channel}_input": volts}
        files |= {f"{folder}/curr{channel}_input": amperes, f"sys/class/hwmon/hwmon3/oc{channel}_event_cnt": 0}
    # sums of shunt voltages have a label and no current
    files |= {"sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages", "sys/class/hwmon/hwmon1/in7_input": 9}
    return tree(root, files)


def pc(root: Path) -> Path:
    """A PC with RAPL and Intel's throttle counters."""
    files: dict[str, object] = {
        **cores(2, 3_000_000, 800_000, 4_000_000, "powersave"),
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": 1_000,
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
        "sys/class/powercap/intel-rapl:0:0/name": "core",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": 500,
        "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 262_143_328_850,
        "sys/class/hwmon/hwmon0/name": "coretemp",
        "sys/class/hwmon/hwmon0/temp1_input": 55_000,
        "sys/class/hwmon/hwmon0/temp1_label": "Package id 0",
        "sys/class/thermal/cooling_device0/type": "TCC Offset",
        "sys/class/thermal/cooling_device0/cur_state": 3,
        "proc/meminfo": MEMINFO,
        "proc/loadavg": "1.00 0.58 0.59 1/467 12345",
    }
    for core in (0, 1):
        counts = f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
        files |= {f"{counts}/core_throttle_count": core + 1, f"{counts}/package_throttle_count": 7}
    return tree(root, files)


# Keeps its mode in a file, prints as `nvpmodel -q` does ("NV Power Mode: 15W", then the number), and logs its calls.
NVPMODEL = """
state={root}/state
echo "nvpmodel $*" >> {root}/calls
case $1 in
  -q) case $(cat $state) in 0) echo "NV Power Mode: 15W";; 1) echo "NV Power Mode: 7W";; esac
      cat $state;;
  -m) if [ "$2" = 2 ]; then
        echo "NVPM WARN: Reboot required for changing to this power mode: 2"; read answer; exit 0
      fi
      echo $2 > $state;;
esac
"""
JETSON_CLOCKS = """
echo "jetson_clocks $1" >> {root}/calls
case $1 in
  --store) echo stored > $2;;
  --restore) [ -f $2 ] || exit 1; rm -f {root}/locked;;
  "") touch {root}/locked;;
esac
"""
CONFIG = """< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=7W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
"""


def jetson_programs(root: Path) -> Path:
    """Stand-ins for nvpmodel and jetson_clocks, which change files under `root` and tell what they were asked."""
    tree(root, {"state": 0, "etc/nvpmodel.conf": CONFIG, "calls": ""})
    program(root / "usr/sbin/nvpmodel", NVPMODEL.format(root=root))
    program(root / "usr/bin/jetson_clocks", JETSON_CLOCKS.format(root=root))
    return root


def calls(root: Path) -> list[str]:
    """What the stand-ins were asked, questions left out."""
    return [line for line in (root / "calls").read_text().split("\n") if line and not line.endswith("-q")]


ROOT_USER = os.geteuid() == 0
