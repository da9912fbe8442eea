"""Names of files that come from the other machine: nothing that leaves the folder it is meant for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from targets.base import TargetError

DIGEST = re.compile(r"[0-9a-f]{64}")
LONGEST_PART, DEEPEST = 255, 16  # bytes of one name, as file systems have it; folders within folders


def relative(name: Any) -> str:
    """Return `name` if it is a plain relative path with forward slashes.

    Raises TargetError for an absolute one, for `.`, `..` and empty parts, backslashes, control characters, and
    what no file system can hold.
    """
    if not isinstance(name, str) or not name:
        raise TargetError(f"not a file name: {name!r:.100}")
    if any(not character.isprintable() for character in name) or "\\" in name:
        raise TargetError(f"a file name has characters that are not allowed: {name!r:.100}")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise TargetError(f"a file name must stay in its folder: {name!r:.100}")
    if len(parts) > DEEPEST or any(len(part.encode("utf-8", "replace")) > LONGEST_PART for part in parts):
        raise TargetError(f"a file name is too long: {name!r:.100}")
    return name


def inside(root: Path, name: Any) -> Path:
    """Return the path of `name` below `root`, links on the way followed. Raises TargetError if it lies elsewhere."""
    found = root / relative(name)
    if root.resolve() not in found.resolve().parents:
        raise TargetError(f"{name!r:.100} leads out of {root}")
    return found


def absolute(path: Any) -> str:
    """Return `path` if it is an absolute POSIX path without `..` and control characters, else raise TargetError."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise TargetError(f"not an absolute path: {path!r:.100}")
    return path if path == "/" else "/" + relative(path.strip("/"))


def digest(text: Any) -> str:
    """Return `text` if it is a sha256 in lower-case hex, else raise TargetError."""
    if not isinstance(text, str) or not DIGEST.fullmatch(text):
        raise TargetError(f"not a sha256: {text!r:.100}")
    return text
