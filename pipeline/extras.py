"""Packages that only some parts need."""

from importlib.util import find_spec


def missing(what: str, extra: str, *packages: str) -> str:
    """Say which packages `what` lacks and how to get them; empty where all are installed."""
    lacking = [name for name in packages if find_spec(name) is None]
    return f"{what} needs {' and '.join(lacking)}: pip install 'edgesmith[{extra}]'" if lacking else ""
