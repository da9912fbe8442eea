"""From what a connection can raise to one line that says what, where, and how to mend it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import Any, Iterator, Tuple, Type

from targets.base import TargetError
from targets.devices._address import Address
from targets.devices._hostkey import HostKey, scan
from targets.devices.base import DeviceLostError

EXTRA = "ssh devices need asyncssh, which is not installed: pip install 'edgesmith[ssh]'"


def load_asyncssh() -> Any:
    """Import asyncssh. Raises TargetError naming the extra."""
    try:
        import asyncssh
    except ImportError:
        raise TargetError(EXTRA) from None
    return asyncssh


def drops() -> Tuple[Type[BaseException], ...]:
    """What is raised where a connection that stood is gone."""
    ssh = load_asyncssh()
    return (
        ssh.DisconnectError,
        ssh.ChannelOpenError,
        ssh.SFTPConnectionLost,
        ssh.SFTPNoConnection,
        ConnectionError,
        asyncio.TimeoutError,
        TimeoutError,
    )


def lost(name: str, doing: str, error: BaseException) -> DeviceLostError:
    """The line for a connection that broke amid work."""
    slow = isinstance(error, (asyncio.TimeoutError, TimeoutError))
    why = "it stopped answering" if slow else " ".join(str(error).split()) or type(error).__name__
    return DeviceLostError(
        f"{name}: the connection was lost while {doing} ({why}); the same command goes on from what had finished"
    )


@contextmanager
def connecting(name: str, address: Address, limit_s: float, seen: HostKey) -> Iterator[None]:
    """Say what is wrong with a connection that does not come about; `seen` is the refused host key, if any.

    TargetError for what the user must mend, DeviceLostError where the board may only be off.
    """
    ssh = load_asyncssh()
    try:
        yield
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise DeviceLostError(f"{name}: no answer within {limit_s:g} s; is it on, and is the address right?") from error
    except (ssh.Error, ssh.KeyImportError, ssh.KeyEncryptionError, ssh.ConfigParseError, OSError) as error:
        line = _to_mend(address, seen, error)
        if line:
            raise TargetError(f"{name}: {line}") from error
        raise DeviceLostError(f"{name}: cannot connect: {_reason(address, error)}") from error


def _to_mend(address: Address, seen: HostKey, error: BaseException) -> str:
    """What the user must mend; "" for what may pass by itself."""
    ssh = load_asyncssh()
    if isinstance(error, ssh.HostKeyNotVerifiable):
        return seen.line(address) or str(error)
    if isinstance(error, ssh.PermissionDenied):
        return _refused(address)
    if isinstance(error, (FileNotFoundError, PermissionError)) and error.filename:
        return f"{error.filename}: {(error.strerror or 'cannot be read').lower()}"
    key = address.key or "in ~/.ssh"
    lines = {
        ssh.KeyImportError: f"the key {key}: {error}; with a passphrase, hand it to ssh-agent by ssh-add",
        ssh.KeyEncryptionError: f"the key {key}: {error}; hand it to ssh-agent by ssh-add",
        ssh.ConfigParseError: f"~/.ssh/config: {error}",
        ssh.KeyExchangeFailed: f"{error}; if known_hosts has another kind of key for it, {scan(address)}",
    }
    return next((line for kind, line in lines.items() if isinstance(error, kind)), "")


def _refused(address: Address) -> str:
    who = f" as {address.user}" if address.user else ""
    keys = f"with the key {address.key}" if address.key else "with the keys of ssh-agent and ~/.ssh"
    port = f"-p {address.port} " if address.port else ""
    to = f"{address.user}@{address.host}" if address.user else address.host
    return f"login{who} refused {keys}; put your public key there with ssh-copy-id {port}{to}, or name a key by ?key="


def _reason(address: Address, error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused: nothing listens on that port"
    if isinstance(error, socket.gaierror):
        return f"there is no host {address.host}"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
