"""The agent as one file: the part of `targets/` that runs on a board, zipped, byte for byte the same each time."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Iterator, Tuple

ROOT = Path(__file__).resolve().parents[1]
HERE_ONLY = ("client.py", "py.typed")  # what starts agents, in the package itself
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest a zip file can say
MAIN = b"import sys\nsys.exit('this is what edgesmith runs on a board; it is started by its ssh device')\n"


@lru_cache(maxsize=1)
def archive() -> Tuple[bytes, str]:
    """Return the zip file's bytes and their sha256. Stored uncompressed: deflate differs between zlib versions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        _add(made, "__main__.py", MAIN)
        for path in files():
            _add(made, f"targets/{path.relative_to(ROOT).as_posix()}", path.read_bytes())
    data = buffer.getvalue()
    return data, hashlib.sha256(data).hexdigest()


def files() -> Iterator[Path]:
    """The files that go in, sorted: all but what only the machine at hand needs."""
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT)
        device = inside.parts[0] == "devices" and inside.name not in ("__init__.py", "base.py")
        if path.is_file() and "__pycache__" not in inside.parts and not device and inside.as_posix() not in HERE_ONLY:
            yield path


def _add(made: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    made.writestr(entry, data)
