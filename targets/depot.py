"""What a board keeps between runs, under one folder: files by their sha256, and folders arranged from them.

    agent/SHA256.pyz     this package
    blobs/SHA256         files, whole
    partial/SHA256       files under way
    work/SHA256/f/…      folders as artifacts need them; hard links to blobs
    out/RANDOM/          what agents write, until it has been fetched

Every file is hashed again before an agent loads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

from targets import names
from targets.base import TargetError

ROOT = "EDGESMITH_ROOT"  # environment variable that the guard sets
FOLDERS = ("agent", "blobs", "partial", "work", "out")
DAMAGED = "damaged on the way or since: "  # how an error about blobs begins
KEPT_S = 14 * 86400.0  # what nobody has used for so long goes


def identity(files: Mapping[str, str]) -> str:
    """Hash of a folder's names and contents (name -> sha256): what its arranged folder is called."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hash a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def root() -> Path:
    """The folder that all is kept under. Raises TargetError in an agent that was not started through ssh."""
    if ROOT not in os.environ:
        raise TargetError("this agent keeps no files: it was not started by an ssh device")
    return Path(os.environ[ROOT])


def arrange(order: Mapping[str, Any]) -> str:
    """Make a folder of `files` (name -> sha256) from blobs, each of which is hashed; return its path.

    Raises TargetError, with the hashes, where blobs are missing or not what their names say; those are removed.
    """
    files = {names.relative(name): names.digest(found) for name, found in order["files"].items()}
    bad = sorted({found for found in files.values() if not _sound(root() / "blobs" / found, found)})
    if bad:
        raise TargetError(DAMAGED + " ".join(bad))
    home = root() / "work" / identity(files)
    if not (home.is_dir() and _holds(home / "f", files)):
        shutil.rmtree(home, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=root() / "work"))
        for name, found in files.items():
            _link(root() / "blobs" / found, names.inside(scratch, f"f/{name}"))
        with suppress(OSError):  # another agent was faster
            scratch.rename(home)
        shutil.rmtree(scratch, ignore_errors=True)
    os.utime(home)
    return str(home / "f")


def room(order: Mapping[str, Any]) -> str:
    """Make a fresh place to write to; return an empty folder in it, or where `file` names one, that path."""
    made = Path(tempfile.mkdtemp(dir=root() / "out"))
    if order.get("file"):
        return str(names.inside(made, order["file"]))
    (made / "f").mkdir()
    return str(made / "f")


def digests(order: Mapping[str, Any]) -> Dict[str, Any]:
    """Size and sha256 of what lies at `path`: of each file below a folder, or of the file itself, named ""."""
    path = _room_of(order["path"])
    if path.is_file():
        return {"": {"size": path.stat().st_size, "sha256": sha256(path)}}
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_symlink():
            raise TargetError(f"{file} is a link; only plain files are fetched")
        if file.is_file():
            found[file.relative_to(path).as_posix()] = {"size": file.stat().st_size, "sha256": sha256(file)}
    return found


def clear(order: Mapping[str, Any]) -> None:
    """Remove the place that `room` made, once all is fetched."""
    shutil.rmtree(_room_of(order["path"]).parent, ignore_errors=True)


def sweep(order: Mapping[str, Any]) -> int:
    """Remove what nobody has used for two weeks; return how many blobs and folders went."""
    del order
    oldest_s = time.time() - KEPT_S  # as files have it: no monotonic clock outlives a boot
    gone = 0
    for folder in FOLDERS:
        for path in (root() / folder).iterdir():
            if path.lstat().st_mtime < oldest_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                gone += 1
    return gone


ORDERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "arrange": arrange,
    "room": room,
    "digests": digests,
    "clear": clear,
    "sweep": sweep,
}


def _sound(blob: Path, found: str) -> bool:
    """Whether a blob is what its name says; a wrong one is removed, for it would never be sent again."""
    if not blob.is_file() or blob.is_symlink():
        return False
    if sha256(blob) != found:
        blob.unlink()
        return False
    os.utime(blob)
    return True


def _holds(folder: Path, files: Mapping[str, str]) -> bool:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return set(found) == set(files) and all(
        not path.is_symlink() and sha256(path) == files[name] for name, path in found.items()
    )


def _link(blob: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(blob, path)


def _room_of(path: Any) -> Path:
    """A path of `room`'s, which other orders may name."""
    out = root() / "out"
    text = names.absolute(path)
    if not text.startswith(f"{out}/"):
        raise TargetError(f"{text!r:.100} is not below {out}")
    return names.inside(out, text[len(f"{out}/") :])
