"""Temperatures, the limits where throttling begins, and signs that it has.

Documentation/driver-api/thermal/sysfs-api.rst of the kernel. A Jetson Orin has zones "CPU-therm" … "tj-therm" with
JetPack 5 and "cpu-thermal" … "tj-thermal" with JetPack 6, cooling devices "cpu-throttle-alert",
"hot-surface-alert" … whose state is 1 while they throttle, and counts over-current events in the hwmon device
"soctherm_oc" ("Jetson Linux Developer Guide, Platform Power and Performance, Jetson Orin"). Intel counts in
thermal_throttle (Documentation/ABI/testing/sysfs-devices-system-cpu). A Raspberry Pi says it in get_throttled
("vcgencmd get_throttled", raspberrypi.com/documentation/computers/os.html).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

from targets.board.files import each, number, text

CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# What cools without slowing anything down, or is a setting rather than a state.
HARMLESS = re.compile(r"fan|TCC|backlight|LCD|charger|battery", re.IGNORECASE)
PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
PI_SINCE_BOOT = 16  # the same bits, this far up: it has happened
COLDEST_C, HOTTEST_C = -40.0, 200.0  # beyond: the sensor is off (a Jetson's powered-off GPU reads -256)


def temperatures_c(root: Path) -> Dict[str, float]:
    """Degrees Celsius by sensor."""
    found = {name: number(zone / "temp") for name, zone in _zones(root)}
    for folder in each(root, "sys/class/hwmon/hwmon*"):
        chip = text(folder / "name")
        if chip in CPU_SENSORS:
            for path in each(folder, "temp*_input"):
                label = text(path.with_name(path.name.replace("_input", "_label"))) or path.name[: -len("_input")]
                found[f"{chip} {label}"] = number(path)
    return {name: m / 1e3 for name, m in found.items() if m is not None and COLDEST_C < m / 1e3 < HOTTEST_C}


def trips_c(root: Path) -> Dict[str, float]:
    """Where each zone begins to throttle, in degrees Celsius: its lowest passive trip point."""
    found = {name: _trip(zone) for name, zone in _zones(root)}
    return {name: limit for name, limit in found.items() if limit is not None}


def throttling(root: Path) -> Tuple[str, ...]:
    """What is being slowed down right now, by name."""
    found = []
    for folder in each(root, "sys/class/thermal/cooling_device*"):
        kind = text(folder / "type") or folder.name
        if (number(folder / "cur_state") or 0) > 0 and not HARMLESS.search(kind):
            found.append(kind)
    flags = _pi_flags(root) or 0
    return (*found, *(name for bit, name in PI_NOW.items() if flags >> bit & 1))


def throttle_events(root: Path) -> Dict[str, int]:
    """Counts since boot, by kind: how often the hardware slowed itself down."""
    found: Dict[str, int] = {}
    for path in each(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"):
        count = int(number(path) or 0)
        # Each core counts for itself, and shows the count of its package besides.
        before = found.get(path.name, 0)
        found[path.name] = max(before, count) if path.name.startswith("package") else before + count
    for folder in each(root, "sys/class/hwmon/hwmon*"):
        if (text(folder / "name") or "").startswith("soctherm"):
            for path in each(folder, "oc*_event_cnt"):
                found[path.name] = int(number(path) or 0)
    flags = _pi_flags(root)
    if flags is not None:
        found.update({f"{name} since boot": flags >> bit + PI_SINCE_BOOT & 1 for bit, name in PI_NOW.items()})
    return found


def _zones(root: Path) -> Iterator[Tuple[str, Path]]:
    for zone in each(root, "sys/class/thermal/thermal_zone*"):
        yield text(zone / "type") or zone.name, zone


def _trip(zone: Path) -> Optional[float]:
    limits = []
    for path in each(zone, "trip_point_*_type"):
        limit = number(path.with_name(path.name.replace("_type", "_temp")))
        if text(path) == "passive" and limit is not None and limit > 0:
            limits.append(limit / 1e3)
    return min(limits, default=None)


def _pi_flags(root: Path) -> Optional[int]:
    for path in each(root, "sys/devices/platform/soc*/soc*:firmware/get_throttled"):
        try:
            return int(text(path) or "", 16)
        except ValueError:
            continue
    return None
