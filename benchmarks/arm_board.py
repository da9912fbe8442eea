"""Every `mobile` artifact of a store on an emulated ARM64 board, behind a real sshd: its outputs, its instructions.

    make deploy TARGET=mobile
    sudo .venv/bin/python benchmarks/arm_board.py --recipe recipes/fashion_resnet20.yaml --json arm.json

The board is qemu-user in a Debian that `benchmarks/arm_rootfs.py` makes. Its latencies say nothing about a phone's
and are marked `proxy`. What does not depend on the machine is how many instructions a call executes: with --qemu and
--plugin (docs/arm-board.md says how to build both) they are counted. Exit code 1 where an output differs by more than
int8 allows.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from arm_instructions import per_call
from arm_rootfs import make, mounted, sshd
from numpy.typing import NDArray

from pipeline.devices import place
from pipeline.exporting import INPUT
from pipeline.recipe import load
from targets.backends.mobile import Mobile
from targets.devices.base import Device, Timing
from targets.devices.local import Local
from targets.npz import save

ROOT = Path("/var/lib/edgesmith-arm64")  # sshd wants every folder above a ChrootDirectory to be root's alone
# Float kernels sum in another order: rounding alone. In int8 a value on the edge between two steps may fall on the
# other side, and the layers behind amplify it.
LEAST_DB = {"float": 80.0, "int8": 20.0}
LEAST_AGREEMENT = 0.98
TIMING = Timing(samples=9, rounds=3, launches=1, max_s=10)


@dataclass(frozen=True)
class Row:
    """One artifact on both."""

    sha256: str
    size_bytes: int
    kind: str  # "float" or "int8"
    sqnr_db: float  # of the board's outputs against this machine's
    agreement: float  # of the highest class
    proxy_ms: float  # p50 on the emulated board
    instructions: list[float]  # executed by one call, counted anew each time
    ok: bool


def main() -> None:
    """Compare, print, and fail where they differ."""
    given = arguments()
    made = Path(given.root)
    make(made)
    with tempfile.TemporaryDirectory() as scratch, mounted(made), sshd(made, Path(scratch)) as url:
        found = place(Mobile(), url)
        board, fingerprint = found.device, found.fingerprint
        words = f"{fingerprint.machine}, {fingerprint.system}, emulator {fingerprint.emulator or 'none'}"
        print(f"{words}, proxy {found.proxy}", flush=True)
        if not found.proxy:
            sys.exit("arm_board: this board is not emulated; deploy to it: make deploy DEVICE=ssh://…")
        images = load(Path(given.recipe)).data_spec().load().test[: given.samples][0]
        feeds = Path(scratch) / "feeds.npz"
        save(feeds, {INPUT: images})
        rows = [row(board, path, feeds, given) for path in artifacts(Path(given.store))[: given.limit]]
    if given.json:
        told = {"fingerprint": asdict(fingerprint), "rows": [asdict(one) for one in rows]}
        Path(given.json).write_text(json.dumps(told, indent=1) + "\n")
    sys.exit(0 if rows and all(one.ok for one in rows) else 1)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default=".edgesmith", help="where `make deploy TARGET=mobile` keeps its artifacts")
    parser.add_argument("--recipe", default="recipes/fashion_resnet20.yaml", help="whose test images are run")
    parser.add_argument("--root", default=str(ROOT), help="the board's root file system, made if it is not there")
    parser.add_argument("--samples", type=int, default=32, help="images; one takes a second and more")
    parser.add_argument("--limit", type=int, default=None, help="artifacts at most")
    parser.add_argument("--qemu", help="a qemu-aarch64 with plugins")
    parser.add_argument("--plugin", help="its libinsn.so")
    parser.add_argument("--repeat", type=int, default=2, help="counts of each artifact")
    parser.add_argument("--json")
    return parser.parse_args()


def artifacts(store: Path) -> list[Path]:
    """Folders with a model.ort, one for each content, smallest first."""
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path.parent for path in sorted(store.rglob("model.ort"))}
    if not found:
        sys.exit(f"arm_board: no model.ort under {store}; run make deploy TARGET=mobile first")
    return sorted(found.values(), key=lambda folder: (folder / "model.ort").stat().st_size)


def row(board: Device, built: Path, feeds: Path, given: argparse.Namespace) -> Row:
    """Run one artifact on both machines, and count."""
    model = (built / "model.ort").read_bytes()
    here, there = (outputs(device, built, feeds) for device in (Local(), board))
    kind = "int8" if b"QLinearConv" in model or b"QuantizeLinear" in model else "float"
    db = sqnr_db(here, there)
    agreement = float(np.mean(here.argmax(1) == there.argmax(1)))
    timed = board.measure({"a": (Mobile(), built)}, feeds, TIMING)["a"]
    ms = float(np.median([ns for block in timed.blocks_ns for ns in block])) / 1e6
    counted = per_call(Path(given.root), built, feeds, given) if given.qemu else []
    ok = db >= LEAST_DB[kind] and agreement >= LEAST_AGREEMENT
    found = Row(hashlib.sha256(model).hexdigest(), len(model), kind, db, agreement, ms, counted, ok)
    shown = f", {np.median(counted):,.0f} instructions ({spread(counted):.1e} apart)" if counted else ""
    print(
        f"{found.sha256[:12]} {len(model):>9} bytes {kind:5} {db:6.1f} dB, {agreement:.1%} agree, {ms:.1f} ms (proxy)"
        f"{shown}{'' if ok else '  DIFFERS'}",
        flush=True,
    )
    return found


def outputs(device: Device, built: Path, feeds: Path) -> NDArray[np.float32]:
    """The first output over all samples."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npz"
        device.infer(Mobile(), built, feeds, out)
        with np.load(out, allow_pickle=False) as loaded:
            return np.asarray(next(iter(loaded.values())), np.float32)


def sqnr_db(wanted: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    """Signal over difference, in decibels; 200 where they are equal bit for bit."""
    noise = float(np.mean((wanted - got) ** 2))
    return 10 * float(np.log10(np.mean(wanted**2) / noise)) if noise else 200.0


def spread(counts: list[float]) -> float:
    """Largest over smallest, less one."""
    return max(counts) / min(counts) - 1


if __name__ == "__main__":
    main()
