"""The error a user of this package can act on."""

from collections.abc import Iterable


class CalibrationError(Exception):
    """A model, its data or its ranges are not fit for int8; one line: what, where, and how to fix it."""


def listed(names: Iterable[str], most: int = 5) -> str:
    """Quote `names` for a message, cut after `most`: `'a', 'b' and 3 more`."""
    found = list(names)
    text = ", ".join(repr(name) for name in found[:most])
    return text if len(found) <= most else f"{text} and {len(found) - most} more"
