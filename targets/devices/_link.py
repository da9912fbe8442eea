"""Connections to one board: opened when needed, shared by agents and transfers, opened again when lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, TypeVar

from targets.base import TargetError
from targets.devices._address import Address
from targets.devices._hostkey import HostKey
from targets.devices._trouble import connecting, drops, load_asyncssh, lost

T = TypeVar("T")
CONNECT_S, LOGIN_S = 15.0, 20.0
KEEPALIVE_S, KEEPALIVES = 10.0, 3  # a board that says nothing for 30 s is gone
SESSIONS = 8  # on one connection; OpenSSH's default for MaxSessions is 10
ANSWER_S = 30.0  # for a channel to open


@dataclass
class _Line:
    """One connection, and how many sessions are open on it."""

    connection: Any
    used: int = 0
    most: int = SESSIONS


class Link:
    """All connections to one board. Its methods run in the event loop's thread."""

    def __init__(self, name: str, address: Address) -> None:
        self.name, self.address = name, address
        self._lines: List[_Line] = []
        self._opening = asyncio.Lock()
        self._locks: Dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection with room for one more session; a new one where all are full or lost.

        Raises TargetError or DeviceLostError where none comes about.
        """
        async with self._opening:
            self._lines = [line for line in self._lines if not line.connection.is_closed()]
            line = next((line for line in self._lines if line.used < line.most), None)
            if line is None:
                line = _Line(await self._connect())
                self._lines.append(line)
            line.used += 1
        try:
            yield line.connection
        except load_asyncssh().ChannelOpenError:
            line.most = max(1, line.used - 1)  # this board allows fewer
            raise
        finally:
            line.used -= 1

    async def retrying(self, doing: str, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do `work(connection)`, and once more over a new connection where the first is lost meanwhile.

        Only for what can be repeated. Raises DeviceLostError the second time.
        """
        for last in (False, True):
            try:
                async with self.connection() as connection:
                    try:
                        return await work(connection)
                    except drops() as error:
                        if not isinstance(error, load_asyncssh().ChannelOpenError):
                            connection.abort()  # it may only have fallen silent
                        raise
            except drops() as error:
                if last:
                    raise lost(self.name, doing, error) from error
        raise AssertionError

    def lock(self, what: str) -> asyncio.Lock:
        """A lock for one thing on the board, so that it is not sent twice at once."""
        return self._locks.setdefault(what, asyncio.Lock())

    async def close(self) -> None:
        """Close every connection; agents there end with them."""
        for line in self._lines:
            line.connection.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(line.connection.wait_closed(), 5)
        self._lines = []

    async def _connect(self) -> Any:
        ssh, address = load_asyncssh(), self.address
        known_hosts = Path(address.known_hosts or "~/.ssh/known_hosts").expanduser()
        seen = HostKey(known_hosts)

        class Client(ssh.SSHClient):  # type: ignore[misc,name-defined]
            def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
                return seen.refuse(host, addr, port, key)

        given: Dict[str, Any] = {"username": address.user, "port": address.port}
        if address.key:
            given["client_keys"] = [str(Path(address.key).expanduser())]
        if address.known_hosts:
            given["known_hosts"] = str(known_hosts)
        with connecting(self.name, address, CONNECT_S, seen):
            if address.known_hosts and not known_hosts.is_file():
                raise TargetError(f"{self.name}: there is no file {known_hosts} of known hosts")
            return await ssh.connect(
                address.host,
                client_factory=Client,
                connect_timeout=CONNECT_S,
                login_timeout=LOGIN_S,
                keepalive_interval=KEEPALIVE_S,
                keepalive_count_max=KEEPALIVES,
                preferred_auth=["publickey"],  # nobody is there to type a password
                agent_forwarding=False,
                **{name: value for name, value in given.items() if value is not None},
            )


async def opened_sftp(name: str, connection: Any) -> Any:
    """Start a session for files. Raises TargetError where the board's sshd has none."""
    ssh = load_asyncssh()
    try:
        return await asyncio.wait_for(connection.start_sftp_client(), ANSWER_S)
    except (ssh.SFTPConnectionLost, ssh.SFTPNoConnection):
        if connection.is_closed():
            raise
        raise TargetError(f"{name}: no SFTP there: enable Subsystem sftp in its sshd_config") from None
