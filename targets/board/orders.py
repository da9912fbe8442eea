"""What can be asked of an agent about the board it runs on."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Tuple

from targets.base import Noted, OwnClock
from targets.board.energy import measure
from targets.board.holding import Holding
from targets.board.state import read

if TYPE_CHECKING:
    from targets.base import Runner, Tensors

Order = Mapping[str, Any]


def orders(loaded: Callable[[], Tuple[Runner, Tensors]]) -> Dict[str, Callable[[Order], Any]]:
    """The orders; `loaded` gives the loaded model and its feeds. `root` in an order is where the board's files lie."""
    holding = Holding()
    return {
        "state": lambda order: read(_root(order)).as_dict(),
        "energy": lambda order: _energy(*loaded(), order),
        "notes": lambda _: _notes(loaded()[0]),
        "hold": lambda order: holding.hold(order["board"], str(_root(order))),
        "release": lambda _: holding.release(),
    }


def _energy(run: Runner, feeds: Tensors, order: Order) -> Optional[Dict[str, Any]]:
    if isinstance(run, OwnClock):  # a call from here is mostly something else
        return None
    found = measure(partial(run, feeds), float(order["least_s"]), _root(order))
    return None if found is None else asdict(found)


def _notes(run: Runner) -> Tuple[str, ...]:
    return run.notes if isinstance(run, Noted) else ()


def _root(order: Order) -> Path:
    return Path(order.get("root", "/"))
