"""Everything that building on a Jetson takes, in a folder: the model, a script, how to use both."""

from __future__ import annotations

import pkgutil
import shutil
from pathlib import Path
from typing import Dict, Optional

from targets.backends import _tensorrt, _trtexec


def write(onnx: Path, out: Path, dla: Optional[int]) -> None:
    """Write model.onnx, build.sh, README.md and check.txt, which says what parsed the model."""
    checked = _tensorrt.check(onnx)
    shutil.copyfile(onnx, out / "model.onnx")
    (out / "build.sh").write_text(_script(_trtexec.quantized(onnx), dla), encoding="utf-8")
    (out / "build.sh").chmod(0o755)
    (out / "README.md").write_text(_file("README.md"), encoding="utf-8")
    (out / "check.txt").write_text(checked + "\n")


def _script(int8: bool, dla: Optional[int]) -> str:
    """The script with the options that the agent on a board would give."""
    words: Dict[str, str] = {
        "BUILD_IF_KNOWN": " ".join(_trtexec.BUILD_IF_KNOWN),
        "WARMUP_MS": str(_trtexec.WARMUP_MS),
    }
    for major in _trtexec.MAJORS:
        words[f"BUILD_{major}"] = " ".join(_trtexec.precision(major, int8, dla))
        words[f"CALLS_{major}"] = " ".join(_trtexec.CALLS[major])
        words[f"CALLS_IF_KNOWN_{major}"] = " ".join(_trtexec.CALLS_IF_KNOWN[major])
        words[f"PROFILE_IF_KNOWN_{major}"] = " ".join(_trtexec.PROFILE_IF_KNOWN[major])
    text = _file("build.sh")
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    return text


def _file(name: str) -> str:
    """A file of _jetson/, also out of the zipapp that boards get."""
    content = pkgutil.get_data("targets.backends", f"_jetson/{name}")
    if content is None:
        raise FileNotFoundError(name)
    return content.decode()
