"""What differs between two descriptions, in words."""

from __future__ import annotations

from typing import Any, List, Mapping, Tuple

LONGEST = 60  # characters of a value


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Tuple[str, ...]:
    """Compare field by field, within fields that are mappings too; lists and tuples are alike."""
    found: List[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}{key} ")
        elif _plain(old) != _plain(new):
            found.append(f"{path}{key}: {_short(old)} → {_short(new)}")
    return tuple(found)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
