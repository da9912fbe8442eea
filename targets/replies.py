"""What an agent is told and answers, written and read the same way over a pipe and over ssh."""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping

from targets.base import NoDeviceError, TargetError


class Orders:
    """Numbers the orders of one agent, and counts those whose answers are still to be passed over."""

    def __init__(self) -> None:
        self.last, self.unheard = 0, 0

    def line(self, do: str, arguments: Mapping[str, Any]) -> bytes:
        """The next order as the agent reads it."""
        self.last += 1
        return json.dumps({"id": self.last, "do": do, **arguments}).encode() + b"\n"


def answered(reply: Mapping[str, Any], order: int, do: str, who: str = "") -> Any:
    """What the order with this number yields. Raises NoDeviceError or TargetError as the agent did.

    `who` begins each message, e.g. the board's name and a colon.
    """
    if reply.get("id") != order:
        raise TargetError(f"{who}{do}: the agent answered another order ({reply.get('id')})")
    if "error" in reply:
        raise _error(do, reply["error"], who)
    return reply["ok"]


def parsed(line: bytes, do: str, who: str = "") -> Dict[str, Any]:
    """An answer from its line. Raises TargetError for what is none."""
    try:
        reply = json.loads(line)
    except ValueError:
        raise TargetError(f"{who}{do}: the agent said no JSON: {line[:80]!r}") from None
    if not isinstance(reply, dict):
        raise TargetError(f"{who}{do}: the agent said no JSON object: {line[:80]!r}")
    return reply


def _error(do: str, error: Mapping[str, str], who: str) -> TargetError:
    if error["kind"] == "NoDeviceError":
        return NoDeviceError(who + error["message"])
    if error["kind"] == "TargetError":
        return TargetError(who + error["message"])
    return TargetError(f"{who}{do}: {error['kind']}: {error['message']}")
