"""What a device is and has: for the verb devices."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline import plugins
from pipeline.devices import resolve
from pipeline.errors import UserError
from targets.base import Target, TargetError
from targets.devices.base import Device, DeviceLostError, Fingerprint, Tell


@dataclass(frozen=True)
class Found:
    """One target on a device."""

    name: str
    runtime: str = ""  # versions there
    runs: str = ""  # "yes", or why not
    lacking: str = ""  # what is missing, and how to get it
    machine: Fingerprint | None = None


@dataclass(frozen=True)
class Reached:
    """One device, as it answered; or why it did not."""

    name: str
    where: str
    machine: Fingerprint | None = None
    targets: tuple[Found, ...] = ()
    error: str | None = None


def reach_all(names: Iterable[str], tell: Tell, beside: Path) -> list[Reached]:
    """Examine devices side by side; those that cannot be reached say why."""

    def attempt(name: str) -> Reached:
        try:
            return examine(resolve(name, tell, beside))
        except (TargetError, UserError) as error:
            return Reached(name, "", error=str(error))

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(attempt, names))


def examine(device: Device) -> Reached:
    """Ask a device about every target. Raises TargetError where it cannot be reached."""
    targets = [plugins.find("targets.backends", name, Target)() for name in plugins.names("targets.backends")]
    found = tuple(_asked(device, target) for target in targets)
    machine = next((one.machine for one in found if one.machine), None)
    if machine is None:
        raise TargetError("; ".join(dict.fromkeys(one.lacking for one in found)))
    return Reached(device.name, device.where, machine, found)


def _asked(device: Device, target: Target) -> Found:
    name = target.name()
    try:
        machine = device.fingerprint(target)
        runtime = ", ".join(f"{key} {value}" for key, value in machine.runtime.items()) or "none needed to build"
        return Found(name, runtime, device.why_not(target) or "yes", machine=machine)
    except DeviceLostError:
        raise
    except TargetError as error:
        return Found(name, lacking=str(error))
