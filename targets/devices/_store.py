"""What has been put on a board: which files, and where agents find them. Synchronous; the network is behind it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Any, Dict, Iterator, Mapping, Optional

from targets import depot, names
from targets.base import TargetError
from targets.devices import _loop
from targets.devices._address import Address
from targets.devices._link import Link
from targets.devices._transfer import Step, Stored, download, home, missing, upload
from targets.devices._zipapp import archive
from targets.devices.base import Tell

SHOWN_BYTES = 4_000_000  # what takes less needs no bar


@dataclass(frozen=True)
class Parcel:
    """Files that go to a board together: name there -> file here, and what it is."""

    files: Mapping[str, Path]
    stored: Mapping[str, Stored]

    @property
    def digests(self) -> Dict[str, str]:
        """Name -> sha256."""
        return {name: stored.sha256 for name, stored in self.stored.items()}


class BoardStore:
    """One board's files, as this process knows them."""

    def __init__(self, name: str, address: Address, tell: Tell) -> None:
        self.link = Link(name, address)
        self.parcels: Dict[str, Parcel] = {}  # path there -> what it should hold
        self._tell = tell
        self._lock = Lock()
        self._root: Optional[str] = None
        self._agent: Optional[str] = None
        self._swept = False

    def root(self) -> str:
        """The folder there that all is kept under."""
        with self._lock:
            if self._root is None:
                self._root = _loop.run(home(self.link, self.link.address.folder))
            return self._root

    def agent(self) -> str:
        """Send the package that runs there, once; return its sha256."""
        root = self.root()
        with self._lock:
            if self._agent is None:
                data, digest = archive()
                final = f"{root}/agent/{digest}.pyz"
                if _loop.run(missing(self.link, {final: len(data)})):
                    _loop.run(upload(self.link, data, (f"{root}/partial/{digest}.pyz", final), lambda _: None))
                self._agent = digest
            return self._agent

    def tidy(self) -> bool:
        """Whether it is time to have the board swept: once in the life of this process."""
        with self._lock:
            due, self._swept = not self._swept, True
            return due

    def put(self, path: Path) -> str:
        """Send a file, or all files of a folder, and return its path there, which an agent must `arrange` first."""
        found = parcel(path)
        self.send(found)
        folder = f"{self.root()}/work/{depot.identity(found.digests)}/f"
        there = folder if path.is_dir() else f"{folder}/{path.name}"
        self.parcels[there] = found
        return there

    def send(self, found: Parcel) -> None:
        """Send those files of a parcel that are not there in full."""
        root = self.root()
        sources = {found.stored[name].sha256: path for name, path in found.files.items()}
        sizes = {f"{root}/blobs/{stored.sha256}": stored.size for stored in found.stored.values()}
        lacking = {path: sizes[path] for path in _loop.run(missing(self.link, sizes))}
        with self._bar(f"send {', '.join(sorted(found.files))[:40]}", sum(lacking.values())) as step:
            for final, size in lacking.items():
                digest = final.rpartition("/")[2]
                _loop.run(self._send(sources[digest], (f"{root}/partial/{digest}", final), size, step))

    def fetch(self, there: str, told: Mapping[str, Any], path: Path) -> None:
        """Bring what an agent wrote at `there`, by its word name -> size and sha256, to a file or into a folder."""
        stored = {name: Stored(int(of["size"]), names.digest(of["sha256"])) for name, of in told.items()}
        if path.is_dir() != ("" not in stored):
            raise TargetError(f"{self.link.name}: {there} is not what was to be fetched: {sorted(stored)!r:.200}")
        with self._bar(f"fetch {path.name}", sum(of.size for of in stored.values())) as step:
            for name, of in stored.items():
                here = names.inside(path, name) if name else path
                here.parent.mkdir(parents=True, exist_ok=True)
                _loop.run(download(self.link, f"{there}/{name}" if name else there, of, here, step))

    def close(self) -> None:
        """End the connections."""
        _loop.run(self.link.close())

    async def _send(self, source: Path, way: tuple[str, str], size: int, step: Step) -> None:
        async with self.link.lock(way[1]):
            if await missing(self.link, {way[1]: size}):  # another thread may have sent it meanwhile
                await upload(self.link, source, way, step)

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Step]:
        """A bar in kB; what takes a moment needs none."""
        if total < SHOWN_BYTES:
            yield lambda _: None
            return
        with self._tell.bar(f"{label} → {self.link.name}, kB", ceil(total / 1000)) as bar:
            done = 0

            def step(count: int) -> None:
                nonlocal done
                before, done = done, done + count
                bar.advance(ceil(done / 1000) - ceil(before / 1000))

            yield step


def parcel(path: Path) -> Parcel:
    """Take stock of a file, with the files that an ONNX model keeps its weights in, or of a folder.

    Raises TargetError for names that cannot be kept on a board, and for links in a folder.
    """
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if not file.is_dir()}
    else:
        files = {name: path.parent / name for name in (path.name, *_weights_beside(path))}
    if not files:
        raise TargetError(f"{path} is empty")
    stored = {names.relative(name): Stored(file.stat().st_size, depot.sha256(file)) for name, file in files.items()}
    return Parcel(files, stored)


def _weights_beside(path: Path) -> tuple[str, ...]:
    """Files that an ONNX model refers to. Raises TargetError for one outside its folder."""
    if path.suffix != ".onnx":
        return ()
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except DecodeError:
        return ()  # the board's compiler says what is wrong with it
    return tuple({names.relative(ExternalDataInfo(t).location): None for t in tensors if uses_external_data(t)})
