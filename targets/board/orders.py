"""What can be asked of an agent about the board it runs on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional

from targets.board.energy import measure
from targets.board.holding import Holding
from targets.board.state import read

Order = Mapping[str, Any]


def orders(call: Callable[[], Callable[[], object]]) -> Dict[str, Callable[[Order], Any]]:
    """The orders; `call` gives what runs the loaded model once. `root` in an order is where the board's files lie."""
    holding = Holding()
    return {
        "state": lambda order: read(_root(order)).as_dict(),
        "energy": lambda order: _energy(call(), order),
        "hold": lambda order: holding.hold(order["board"], str(_root(order))),
        "release": lambda _: holding.release(),
    }


def _energy(call: Callable[[], object], order: Order) -> Optional[Dict[str, Any]]:
    found = measure(call, float(order["least_s"]), _root(order))
    return None if found is None else asdict(found)


def _root(order: Order) -> Path:
    return Path(order.get("root", "/"))
