"""The content-addressed store of finished artifacts.

<root>/entries/<key>/files/…      the artifact, read-only
<root>/entries/<key>/entry.json   digest, and the parts that the key is the hash of
<root>/partial/<key>/files/…      work in progress, moved to entries/ in one step when finished
<root>/last/<slot>.json           the parts of the last run of a slot, to say why one reruns
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import fingerprint

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A finished, read-only folder."""

    path: Path
    digest: str  # sha256 over its files


class NotStoredError(Exception):
    """A read-only store was asked for what it does not have."""


class Store:
    """Finds an artifact by the hash of what it was made from, or makes it once.

    Safe against `kill -9` at any moment (a folder becomes an entry in one rename), against two
    processes that want the same key (one waits for the other), and against changed files (bytes are
    re-hashed on every hit; a damaged entry is made again).
    """

    def __init__(self, root: Path, say: Callable[[str], None] = lambda line: None, readonly: bool = False) -> None:
        self.root = root
        self._say = say
        self._readonly = readonly

    @staticmethod
    def key(parts: Parts) -> str:
        """Hash of the parts: 32 hex digits."""
        return fingerprint.of_value(dict(parts))[:32]

    def get(self, parts: Parts) -> Artifact | None:
        """Return the artifact made from `parts`, or None if there is none or its bytes have changed."""
        entry = self.root / "entries" / self.key(parts)
        try:
            digest = json.loads((entry / "entry.json").read_text())["digest"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        try:
            found = fingerprint.of_folder(entry / "files")
        except FileNotFoundError:  # another process is removing a damaged entry
            return None
        return Artifact(entry / "files", digest) if found == digest else None

    def make(self, parts: Parts, work: Callable[[Path], None], resumable: bool = False) -> tuple[Artifact, bool]:
        """Return the artifact for `parts` and whether it was there; else `work(folder)` makes it first.

        If `work` raises, nothing is stored; with `resumable` what it wrote is given back to it next time.
        Raises NotStoredError instead of working if the store is read-only.
        """
        if found := self.get(parts):
            return found, True
        if self._readonly:
            raise NotStoredError
        key = self.key(parts)
        with self._lock(key):
            if found := self.get(parts):  # another process made it while this one waited
                return found, True
            entry, partial = self.root / "entries" / key, self.root / "partial" / key
            if entry.exists():
                self._say(f"store: {entry} was changed after it was written; making it again")
                shutil.rmtree(entry)
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            (partial / "files").mkdir(parents=True, exist_ok=True)
            work(partial / "files")
            return self._publish(partial, entry, parts), False

    def _publish(self, partial: Path, entry: Path, parts: Parts) -> Artifact:
        digest = fingerprint.of_folder(partial / "files")
        (partial / "entry.json").write_text(json.dumps({"digest": digest, "parts": parts}, indent=1))
        for path in (partial / "files").rglob("*"):
            if path.is_file():
                path.chmod(0o444)
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(entry)
        return Artifact(entry / "files", digest)

    def _lock(self, key: str) -> AbstractContextManager[object]:
        path = self.root / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            self._say("store: another run is making the same artifact; waiting for it")
            return lock.acquire()

    def remember(self, slot: str, parts: Parts) -> None:
        """Keep `parts` as the last ones of `slot`."""
        path = self._last(slot)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(parts))
        temporary.replace(path)

    def why(self, slot: str, parts: Parts) -> str:
        """Say in a line what changed since the last run of `slot`."""
        try:
            last = json.loads(self._last(slot).read_text())
        except FileNotFoundError:
            return "never run"
        except ValueError:
            return "the record of its last run is damaged"
        changes = _changes(last, json.loads(json.dumps(parts)))
        return "; ".join(changes) or "its result is missing from the store or damaged"

    def _last(self, slot: str) -> Path:
        return self.root / "last" / f"{fingerprint.of_value(slot)[:32]}.json"


def _changes(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        rows = []
        for key in sorted(old.keys() | new.keys()):
            where = f"{path} {key}" if path in ("code", "versions", "inputs") else f"{path}.{key}".strip(".")
            if key not in old:
                rows.append(f"{where} is new")
            elif key not in new:
                rows.append(f"{where} is gone")
            else:
                rows += _changes(old[key], new[key], where)
        return rows
    if old == new:
        return []
    if path.startswith(("code ", "inputs ")):
        return [f"{path} changed"]
    return [f"{path}: {old} → {new}"]
