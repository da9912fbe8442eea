"""What goes to a board: one file that runs on Python 3.8, with all plug-ins in it."""

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from targets import depot, plugins
from targets.devices import _bootstrap, _zipapp

SOURCES = [path for path in _zipapp.files() if path.suffix == ".py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(_zipapp.ROOT).as_posix())
def test_what_runs_there_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_what_runs_there_uses_the_library_of_python_3_8() -> None:
    command = [
        sys.executable,
        "-c",
        "import vermin; vermin.main()",
        "-t=3.8-",
        "--no-tips",
        "--violations",
        *map(str, SOURCES),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_package_runs_by_itself_and_finds_the_targets_in_it(tmp_path: Path) -> None:
    for name in depot.FOLDERS:
        (tmp_path / name).mkdir()
    data, digest = _zipapp.archive()
    (tmp_path / "agent" / f"{digest}.pyz").write_bytes(data)
    first = {"root": str(tmp_path), "agent": digest, "environment": {"OMP_NUM_THREADS": "3"}, "lease_s": 60}
    lines = (json.dumps(first), '{"id": 1, "do": "versions", "target": "x", "options": {}}', '{"id": 2, "do": "quit"}')
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        shlex.split(_bootstrap.command(sys.executable)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=bare,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.flush()
        ready, versions, quitting = (json.loads(process.stdout.readline()) for _ in lines)
        assert process.wait(timeout=60) == 0
    assert ready["ready"]["pid"] > 1
    assert versions["error"]["message"].endswith(f"have: {', '.join(plugins.names('targets.backends'))}")
    assert quitting == {"id": 2, "ok": None}
