"""What to say of a host key that is not trusted: unknown, or another than before."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from targets.devices._address import Address


class HostKey:
    """The key of a host that was refused; empty until one was."""

    def __init__(self, known_hosts: Path) -> None:
        self._known_hosts = known_hosts
        self._fingerprint, self._changed = "", False

    def refuse(self, host: str, addr: str, port: int, key: Any) -> bool:
        """Note a key that is not in known_hosts; return False, for not trusted."""
        import asyncssh

        self._fingerprint = key.get_fingerprint()
        if self._known_hosts.is_file():
            with suppress(ValueError):
                self._changed = bool(asyncssh.match_known_hosts(str(self._known_hosts), host, addr, port)[0])
        return False

    def line(self, address: Address) -> str:
        """What is wrong, and what to do; "" where no key was refused."""
        if not self._fingerprint:
            return ""
        if self._changed:
            entry = f"[{address.host}]:{address.port}" if address.port else address.host
            return (
                f"its host key has CHANGED, to {self._fingerprint}: someone may be in between. If the board was set up"
                f" anew, remove the old key: ssh-keygen -f {self._known_hosts} -R '{entry}', then {scan(address)}"
            )
        return (
            f"its host key is not known: {self._fingerprint}. Compare that with what ssh-keygen -lf"
            f" /etc/ssh/ssh_host_ed25519_key.pub says on the board, then {scan(address)}"
        )


def scan(address: Address) -> str:
    """The command that adds a host key."""
    port = f"-p {address.port} " if address.port else ""
    return f"ssh-keyscan {port}{address.host} >> {address.known_hosts or '~/.ssh/known_hosts'}"
