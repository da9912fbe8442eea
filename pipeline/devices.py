"""From what a user names as DEVICE to a device, before any work is done."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import plugins
from pipeline.device_files import Named, configured
from pipeline.errors import UserError
from targets.base import Target, TargetError
from targets.board.options import UNHELD, Board
from targets.devices.base import SILENT, Device, Fingerprint, Tell
from targets.devices.pool import Pool

NONE = "none"  # build here, run nowhere
LOCAL = "local"


@dataclass(frozen=True)
class Place:
    """Where a target is built, and whether it can be run there."""

    device: Device
    fingerprint: Fingerprint
    why_not: str | None  # None: what is built can be run and timed
    proxy: bool  # it runs, but on another kind of device than the target is for


def place(target: Target, spec: str | None, tell: Tell = SILENT, beside: Path = Path(), board: Board = UNHELD) -> Place:
    """Resolve DEVICE for a target; names are looked up in `beside`/devices.yaml too. It is held as `board` says.

    Raises UserError where the two cannot go together, TargetError where the device cannot be reached.
    """
    if spec is None and target.remote:
        raise UserError(
            f"target {target.name()} needs a device: DEVICE=none writes a bundle to build on the board; "
            "DEVICE=ssh://user@host builds and measures there"
        )
    spec = spec or LOCAL
    if target.remote and spec == LOCAL:
        raise UserError(
            f"DEVICE={spec}: target {target.name()} is built on the board; use DEVICE=ssh://user@host, or DEVICE=none"
        )
    device = resolve(LOCAL if spec == NONE else spec, tell, beside)
    device = device if board == UNHELD or spec == NONE else device.on(board)
    machine = device.fingerprint(target)
    why_not = device.why_not(target) or ("no device" if spec == NONE else None)
    real = target.is_native(machine) and not machine.emulator
    return Place(device, machine, why_not, proxy=why_not is None and not real)


def as_measured(target: Target, spec: str | None, board: Board, tell: Tell = SILENT, beside: Path = Path()) -> Place:
    """As `place`, for a run whose device was held as `board` says.

    Where no device is named and this machine cannot be held so, it is left as it is, and its fingerprint shows that.
    """
    try:
        return place(target, spec, tell, beside, board)
    except TargetError:
        if spec is not None or not board.holds:
            raise
    return place(target, spec, tell, beside)


def resolve(spec: str, tell: Tell = SILENT, beside: Path = Path()) -> Device:
    """The device of a URL, of a name in a devices.yaml, or `local`; not reached yet. Raises UserError."""
    if "://" in spec or spec in plugins.names("targets.devices"):
        return _made(Named(spec), "", tell)
    known = configured(beside)
    if spec in known.pools:
        return Pool(spec, tuple(_made(known.devices[name], name, tell) for name in known.pools[spec]), tell)
    if spec in known.devices:
        return _made(known.devices[spec], spec, tell)
    names = [LOCAL, *known.devices, *known.pools]
    raise UserError(f"no device named {spec!r}{plugins.did_you_mean(spec, names)}; or write ssh://user@host")


def _made(named: Named, name: str, tell: Tell) -> Device:
    kind = plugins.find("targets.devices", named.url.partition("://")[0], Device)
    return kind.at(named.url, named.options, name, tell)
