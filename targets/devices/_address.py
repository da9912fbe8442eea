"""Where a board is: `ssh://[user@]host[:port][?option=value&…]`, read strictly.

Every part has a pattern of its own, so that nothing in it can mean anything to a shell, to ssh or to a file system
but what it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Dict, Mapping, Optional
from urllib.parse import parse_qsl

from targets.base import TargetError

URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9]{1,16})?\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?(?:\?(?P<query>[!-~]*))?"
)
# No quotes, no spaces, nothing that a shell reads as more than itself; a leading ~ is the user's home there.
PLAIN = re.compile(r"(?:~/)?[A-Za-z0-9_./+][A-Za-z0-9_./+@:,=-]*")
FORM = "write ssh://[user@]host[:port][?key=…&python=…&known_hosts=…&folder=…&timeout=…]"
OPTIONS = ("key", "known_hosts", "python", "folder", "timeout")
SECONDS = re.compile(r"[1-9][0-9]{0,5}")
TIMEOUT_S = 3900.0  # longer than the hour that trtexec may take for a build
MOST_OPTIONS = 8
HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Address:
    """How to reach a board, and what to use there. What is None comes from ~/.ssh/config, or ssh's defaults."""

    host: str
    user: Optional[str] = None
    port: Optional[int] = None
    key: Optional[str] = None  # file of the private key, here
    known_hosts: Optional[str] = None  # file, here
    python: str = "python3"  # the interpreter there
    folder: str = ".cache/edgesmith"  # what is kept there, relative to the home
    timeout_s: float = TIMEOUT_S  # of each order there

    @property
    def url(self) -> str:
        """Without options: what messages call it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{host}{f':{self.port}' if self.port else ''}"


def parse(url: str) -> Address:
    """Read a URL. Raises TargetError with what is wrong and how it should read."""
    found = URL.fullmatch(url)
    if not found:
        raise TargetError(f"{url!r:.200} is no address of a device: {FORM}")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port <= HIGHEST_PORT:
        raise TargetError(f"{url!r:.200}: port {port} is not in 1 … {HIGHEST_PORT}")
    plain = Address(found["host"].strip("[]"), found["user"], port)
    return with_options(plain, _query(url, found["query"] or ""))


def with_options(address: Address, options: Mapping[str, str]) -> Address:
    """Set options of an address. Raises TargetError for an unknown one, or a value that is not allowed."""
    for name, value in options.items():
        if name not in OPTIONS:
            close = get_close_matches(name, OPTIONS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise TargetError(f"{address.url}: no option {name!r:.50}: {hint}have {', '.join(OPTIONS)}")
        _check(address, name, value)
    chosen: Dict[str, Any] = {name: value for name, value in options.items() if name != "timeout"}
    if "timeout" in options:
        chosen["timeout_s"] = float(options["timeout"])
    return replace(address, **chosen)


def _check(address: Address, name: str, value: str) -> None:
    where = f"{address.url}: {name}={value!r:.200}"
    if name in ("key", "known_hosts"):  # files here, opened and never handed to anything that parses
        if not value or not value.isprintable():
            raise TargetError(f"{where} is no file name")
    elif name == "timeout":
        if not SECONDS.fullmatch(value):
            raise TargetError(f"{where} is no number of seconds, 1 to 999999")
    elif not PLAIN.fullmatch(value):
        raise TargetError(f"{where} may have letters, digits and _ . / + @ : , = - only, and not start with a dash")
    elif ".." in value.split("/"):
        raise TargetError(f"{where} must not go up with ..")
    elif name == "folder" and value.startswith("~"):
        raise TargetError(f"{where} is relative to the home as it is: leave out the ~/")


def _query(url: str, query: str) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, True, True, errors="strict", max_num_fields=MOST_OPTIONS) if query else []
    except ValueError:
        raise TargetError(f"{url!r:.200}: options read key=value, with & between them") from None
    if len(dict(pairs)) != len(pairs):
        raise TargetError(f"{url!r:.200}: an option is given twice")
    return dict(pairs)
