"""Timing caches that stay on the board: what TensorRT found each layer's kernels to take, pinned by sha256.

With them, the stages of a pipeline get the same kernels for the same layers, and builds after the first take
seconds. A cache that was changed since it was written is not used. Even with one, two builds may differ
(NVIDIA/TensorRT#4798).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Optional

from targets.depot import ROOT

DEFAULT = Path("~/.cache/edgesmith")


def path_of(*key: str) -> Path:
    """Where the cache for a kind of build lies: version, capability, power mode, DLA."""
    home = Path(os.environ.get(ROOT) or DEFAULT.expanduser())
    name = "_".join(re.sub(r"[^\w.-]+", "-", part) for part in key if part)
    return home / "timing-caches" / f"{name}.cache"


def load(path: Path) -> bytes:
    """The cache, empty where there is none or it is not what was written."""
    pin = path.with_suffix(".sha256")
    if not path.is_file() or not pin.is_file():
        return b""
    content = path.read_bytes()
    return content if pin.read_text().strip() == digest(content) else b""


def save(path: Path, content: bytes) -> None:
    """Keep a cache with its sha256: whichever is older is replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, data in ((path, content), (path.with_suffix(".sha256"), digest(content).encode())):
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.write_bytes(data)
        beside.replace(target)


def digest(content: Optional[bytes]) -> str:
    """Sha256, "" of nothing."""
    return hashlib.sha256(content).hexdigest() if content else ""
