"""Waiting for a board to cool before it is timed."""

from __future__ import annotations

import time
from typing import Callable, Optional

from targets.base import TargetError
from targets.board.options import Board
from targets.board.state import State

POLL_S = 2.0


def wait(
    board: Board, read: Callable[[], State], tell: Callable[[str], object], poll_s: float = POLL_S
) -> Optional[str]:
    """Wait until the warmest sensor is below `board.cool_below_c`; return a warning where the limit came first.

    `tell` hears each reading. Raises TargetError where there is no sensor, and after the limit where the board is
    asked to fail then.
    """
    if board.cool_below_c is None:
        return None
    deadline_s = None
    while True:
        warmest = read().hottest
        deadline_s = deadline_s or time.monotonic() + board.cool_limit_s
        if warmest is None:
            raise TargetError("cool_below_c: this machine shows no temperature; leave it out")
        name, celsius = warmest
        if celsius < board.cool_below_c:
            return None
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        tell(f"cooling: {name} {celsius:.0f} °C, waiting for {board.cool_below_c:g}")
        time.sleep(min(poll_s, left_s))
    said = f"{name} was at {celsius:.0f} °C after {board.cool_limit_s:g} s of cooling, not below {board.cool_below_c:g}"
    if board.when_hot == "fail":
        raise TargetError(f"{said}; cool the board, raise cool_below_c, or set when_hot: warn")
    return said
