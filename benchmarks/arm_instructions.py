"""How many ARM64 instructions one call executes: qemu's plugin libinsn counts a whole process, so two are compared."""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

from arm_rootfs import SITE

PLACE = "opt/count"  # in the board's root
COUNT = re.compile(r"insns: (\d+)")
LIBRARY = re.compile(r"(/\S+) \(0x")
FEW, MANY = 1, 101  # calls of the two processes; loading is in both, and varies by some 200,000 instructions
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

    place = root / PLACE
    install(place, given)
    with np.load(feeds) as loaded:
        np.save(place / "x.npy", next(iter(loaded.values()))[:1])
    (place / "run.py").write_text(SCRIPT)
    shutil.copyfile(built / "model.ort", place / "model.ort")
    counts = []
    for _ in range(given.repeat):
        few, many = (counted(root, calls) for calls in (FEW, MANY))
        counts.append((many - few) / (MANY - FEW))
    return counts


def install(place: Path, given: argparse.Namespace) -> None:
    """Copy qemu, its plugin and the libraries they need into the root: outside it, the guest would see our /sys."""
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(given.qemu, place / "qemu")
    shutil.copy(given.plugin, place / "insn.so")
    for program in (given.qemu, given.plugin):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in LIBRARY.findall(listed):
            shutil.copy(library, place / Path(library).name)


def counted(root: Path, calls: int) -> int:
    """Instructions of a process that makes so many calls. Raises RuntimeError where the plugin says none."""
    environment = {"PYTHONPATH": f"/{SITE}", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    told = [word for item in environment.items() for word in ("-E", "=".join(item))]
    loader = [f"/{PLACE}/ld-linux-x86-64.so.2", "--library-path", f"/{PLACE}", f"/{PLACE}/qemu"]
    plugin = ["-plugin", f"/{PLACE}/insn.so,inline=on", "-d", "plugin", "-D", f"/{PLACE}/count"]
    program = ["/usr/bin/python3", f"/{PLACE}/run.py", f"/{PLACE}/model.ort", f"/{PLACE}/x.npy", str(calls)]
    command = ["chroot", str(root), *loader, *plugin, *told, *program]
    log = root / PLACE / "count"
    log.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    found = COUNT.findall(log.read_text()) if log.exists() else []
    if done.returncode or not found:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-800:]}")
    return int(found[-1])
