"""Medians of one model by our loop, by OpenVINO's benchmark_app and by ONNX Runtime's profiler, each in a process.

Every one of them runs for the same time, after its own warm-up, on one thread.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from targets.base import Target
from targets.devices.base import Timing
from targets.devices.local import Local
from targets.npz import save

SECONDS = 1.0
APP = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nireq", "1", "-nthreads", "1", "-infer_precision", "f32"]
MEDIAN = re.compile(r"Median:\s+([\d.]+) ms")
PROFILED = """
import json, sys, time
from pathlib import Path
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
options.enable_profiling, options.profile_file_prefix = True, sys.argv[2]
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {i.name: np.random.default_rng(0).standard_normal(i.shape, np.float32) for i in session.get_inputs()}
names = [o.name for o in session.get_outputs()]
end_s = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end_s:
    session.run(names, feeds)
print(session.end_profiling())
"""


def ours(target: Target, built: Path) -> float:
    """Nanoseconds, by our agent in one process."""
    with target.open(built) as runner:
        shapes = dict(runner.inputs)
    with tempfile.TemporaryDirectory() as folder:
        feeds = Path(folder) / "feeds.npz"
        random = np.random.default_rng(0)
        save(feeds, {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})
        timing = Timing(samples=10**6, rounds=10, launches=1, max_s=SECONDS * 4 / 3, precision=0.0, retries=0)
        found = Local().measure({"it": (target, built)}, feeds, timing)["it"]
    return float(np.median([ns for block in found.blocks_ns for ns in block]))


def benchmark_app(built: Path) -> float:
    """Nanoseconds, by OpenVINO's own tool: synchronous, one request, one thread, float32."""
    tool = str(Path(sys.executable).with_name("benchmark_app"))
    command = [tool, "-m", str(built / "model.xml"), *APP, "-t", str(round(SECONDS))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_quiet())
    said = MEDIAN.search(done.stdout)
    if said is None:
        raise RuntimeError(f"benchmark_app names no median: {done.stdout[-500:]}")
    return float(said[1]) * 1e6


def profiler(built: Path) -> float:
    """Nanoseconds, by the `model_run` events of ONNX Runtime's profiler, the first 0.2 s left out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROFILED, str(built / "model.ort"), f"{folder}/profile", str(SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_quiet())
        events = json.loads(Path(done.stdout.split()[-1]).read_text())
    runs = [event for event in events if event["name"] == "model_run"]
    first_us = runs[0]["ts"]
    return float(np.median([run["dur"] for run in runs if run["ts"] - first_us > 200_000])) * 1e3


def _quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENVINO_TELEMETRY": "0"}
