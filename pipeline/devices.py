"""From what a user names as DEVICE to a device, before any work is done."""

from dataclasses import dataclass

from pipeline import plugins
from pipeline.errors import UserError
from targets.base import Target
from targets.devices.base import Device, Fingerprint

NONE = "none"  # build here, run nowhere


@dataclass(frozen=True)
class Place:
    """Where a target is built, and whether it can be run there."""

    device: Device
    fingerprint: Fingerprint
    why_not: str | None  # None: what is built can be run and timed
    proxy: bool  # it runs, but on another kind of device than the target is for


def place(target: Target, spec: str | None) -> Place:
    """Resolve DEVICE for a target. Raises UserError where the two cannot go together."""
    if spec is None and target.remote:
        raise UserError(
            f"target {target.name()} needs a device: DEVICE=none writes a bundle to build on the board; "
            "DEVICE=ssh://user@host builds and measures there (not in this version yet)"
        )
    spec = spec or "local"
    kind = spec.partition("://")[0]
    if kind == "ssh":
        raise UserError(
            f"DEVICE={spec}: ssh devices are not in this version yet; use DEVICE=local, or DEVICE=none to build only"
        )
    if target.remote and spec != NONE:
        raise UserError(f"DEVICE={spec}: target {target.name()} is built on the board; use DEVICE=none")
    device = plugins.find("targets.devices", "local" if kind == NONE else kind, Device)()
    machine = device.fingerprint(target)
    why_not = target.runs_here() or ("no device" if kind == NONE else None)
    return Place(device, machine, why_not, proxy=why_not is None and not target.is_native(machine))
