"""Files to a board and back over SFTP: in pieces that are acknowledged, going on where a lost connection ended."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, AsyncIterator, Callable, List, Mapping, Optional, Tuple

from targets.base import TargetError
from targets.depot import FOLDERS, sha256
from targets.devices._link import Link, opened_sftp
from targets.devices._trouble import load_asyncssh
from targets.names import absolute

PIECE_BYTES = 1 << 20
STALLED_S = 60.0  # a piece that takes longer counts as a lost connection
MARGIN_BYTES = 1 << 20  # that a file system needs besides the file itself

Step = Callable[[int], object]  # told how many more bytes have gone


@dataclass(frozen=True)
class Stored:
    """A file's size in bytes and sha256."""

    size: int
    sha256: str


async def home(link: Link, folder: str) -> str:
    """Make `folder` there, below the home unless it is absolute, with what goes in it; return its absolute path."""

    async def work(connection: Any) -> str:
        async with await opened_sftp(link.name, connection) as sftp:
            start = "" if folder.startswith("/") else str(await sftp.realpath(".")).rstrip("/") + "/"
            root = absolute(start + folder)
            async with _refusals(link.name, sftp, root):
                for made in (root, *(f"{root}/{name}" for name in FOLDERS)):
                    await sftp.makedirs(made, load_asyncssh().SFTPAttrs(permissions=0o700), exist_ok=True)
            return root

    return await link.retrying("setting up", work)


async def missing(link: Link, sizes: Mapping[str, int]) -> List[str]:
    """Which of these files (path there -> bytes) are not there in full."""

    async def work(connection: Any) -> List[str]:
        async with await opened_sftp(link.name, connection) as sftp:
            return [path for path, size in sizes.items() if await _size(sftp, path) != size]

    return await link.retrying("looking for files", work)


async def upload(link: Link, data: Path | bytes, way: Tuple[str, str], step: Step) -> None:
    """Write a file there under the first name of `way`, from where that ends, then give it the second.

    Raises TargetError where it cannot be written, DeviceLostError where the connection is lost twice.
    """
    partial, final = way
    total = len(data) if isinstance(data, bytes) else data.stat().st_size
    told = 0

    async def work(connection: Any) -> None:
        nonlocal told
        async with await opened_sftp(link.name, connection) as sftp:
            start = await _size(sftp, partial) or 0
            start = start if start <= total else 0
            step(start - told)
            told = start
            await _has_room(link.name, sftp, partial, total - start)
            async with _refusals(link.name, sftp, final):
                async with sftp.open(partial, "r+b" if start else "wb") as there:
                    while told < total:
                        piece = _piece(data, told)
                        await asyncio.wait_for(there.write(piece, told), STALLED_S)
                        told += len(piece)
                        step(len(piece))
                    with suppress(load_asyncssh().SFTPOpUnsupported):
                        await asyncio.wait_for(there.fsync(), STALLED_S)
                await _rename(sftp, partial, final)

    await link.retrying("sending files", work)


async def download(link: Link, there: str, stored: Stored, path: Path, step: Step) -> None:
    """Fetch a file of known size and hash to `path`, whole or not at all.

    Raises TargetError where what comes is not what was promised.
    """
    beside = path.with_name(f".{path.name[:200]}.part")
    beside.unlink(missing_ok=True)

    async def work(connection: Any) -> None:
        async with await opened_sftp(link.name, connection) as sftp, _refusals(link.name, sftp, there):
            source = await sftp.open(there, "rb")
            with beside.open("ab") as file:
                while (start := file.tell()) < stored.size:
                    length = min(PIECE_BYTES, stored.size - start)
                    piece = await asyncio.wait_for(source.read(length, start), STALLED_S)
                    if not piece:
                        raise TargetError(f"{link.name}: {there} ends early, at {start} of {stored.size} bytes")
                    file.write(piece)
                    step(len(piece))

    try:
        await link.retrying("fetching files", work)
        if sha256(beside) != stored.sha256:
            raise TargetError(f"{link.name}: {there} came over damaged: its sha256 is not {stored.sha256}")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@asynccontextmanager
async def _refusals(name: str, sftp: Any, path: str) -> AsyncIterator[None]:
    """Say what the board refused as one line; SFTP itself knows little more than "Failure"."""
    ssh = load_asyncssh()
    try:
        yield
    except (ssh.SFTPConnectionLost, ssh.SFTPNoConnection):
        raise
    except ssh.SFTPError as error:
        free = await _free_bytes(sftp, path)
        if free is not None and free < MARGIN_BYTES:
            raise TargetError(f"{name}: the disk there is full ({free:,} bytes free) writing {path}") from error
        why = "permission denied" if isinstance(error, ssh.SFTPPermissionDenied) else str(error).lower()
        raise TargetError(
            f"{name}: {path} there: {why}; a limit on file sizes, a quota, or rights? another place: ?folder="
        ) from error


async def _has_room(name: str, sftp: Any, path: str, needed: int) -> None:
    free = await _free_bytes(sftp, path)
    if free is not None and needed + MARGIN_BYTES > free:
        raise TargetError(
            f"{name}: the disk there is full: {needed:,} bytes to send, {free:,} free at {path.rpartition('/')[0]};"
            " free some space, or name another place by ?folder="
        )


async def _free_bytes(sftp: Any, path: str) -> Optional[int]:
    """Bytes free on the file system of a path's folder; None where the board does not say."""
    ssh = load_asyncssh()
    try:
        found = await sftp.statvfs(path.rpartition("/")[0])
    except (ssh.SFTPConnectionLost, ssh.SFTPNoConnection):
        raise
    except ssh.SFTPError:
        return None
    return int(found.bavail * found.frsize) if found.blocks else None  # /proc and the like have no size


async def _size(sftp: Any, path: str) -> Optional[int]:
    try:
        return int((await sftp.stat(path)).size)
    except (load_asyncssh().SFTPNoSuchFile, load_asyncssh().SFTPNoSuchPath):
        return None


async def _rename(sftp: Any, old: str, new: str) -> None:
    """Rename over what may be there; another process may have sent the same file meanwhile."""
    ssh = load_asyncssh()
    try:
        await sftp.posix_rename(old, new)
    except (ssh.SFTPNoSuchFile, ssh.SFTPNoSuchPath):
        if await _size(sftp, new) is None:
            raise
    except ssh.SFTPOpUnsupported:
        await sftp.rename(old, new)


def _piece(data: Path | bytes, start: int) -> bytes:
    if isinstance(data, bytes):
        return data[start : start + PIECE_BYTES]
    with data.open("rb") as file:
        file.seek(start)
        return file.read(PIECE_BYTES)
