"""How many ARM64 instructions one call executes: qemu's plugin libinsn counts a whole process, so two are compared."""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from arm_rootfs import SITE

COUNT = re.compile(r"^insns: (\d+)", re.MULTILINE)
FEW, MANY = 1, 4  # calls of the two processes: loading, warming up and leaving are in both
# Loads the model, runs one image so often, and ends without the interpreter's own clean-up.
SCRIPT = """
import os, sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 4
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.load(sys.argv[2])
for _ in range(int(sys.argv[3])):
    session.run(None, {session.get_inputs()[0].name: x})
"""


def per_call(root: Path, built: Path, feeds: Path, given: argparse.Namespace) -> list[float]:
    """Instructions of one call, counted `given.repeat` times."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        with np.load(feeds) as loaded:
            np.save(Path(folder) / "x.npy", next(iter(loaded.values()))[:1])
        (Path(folder) / "run.py").write_text(SCRIPT)
        counts = []
        for _ in range(given.repeat):
            few, many = (counted(root, built, Path(folder), calls, given) for calls in (FEW, MANY))
            counts.append((many - few) / (MANY - FEW))
    return counts


def counted(root: Path, built: Path, folder: Path, calls: int, given: argparse.Namespace) -> int:
    """Instructions of a process that makes so many calls. Raises RuntimeError where the plugin says none."""
    environment = {
        "PYTHONPATH": f"{root}/{SITE}",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHOME": f"{root}/usr",
    }
    told = [word for item in environment.items() for word in ("-E", "=".join(item))]
    program = [f"{root}/usr/bin/python3", "-S", f"{folder}/run.py", f"{built}/model.ort", f"{folder}/x.npy", str(calls)]
    log = folder / "count"
    plugin = ["-plugin", f"{given.plugin},inline=on", "-d", "plugin", "-D", str(log)]
    command = [given.qemu, "-L", str(root), *plugin, *told, *program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    found = COUNT.search(log.read_text()) if log.exists() else None
    if done.returncode or found is None:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-800:]}")
    return int(found[1])
