"""Medians of one model by our loop beside OpenVINO's benchmark_app and ONNX Runtime's profiler.

A shared machine changes its speed by tens of percent within seconds, for whoever runs then. So the two share every
tenth of a second: benchmark_app and our agent are stopped and continued in turns on one core, and the profiler
watches the very calls that our loop times.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from targets.base import Target
from targets.client import start
from targets.npz import save
from targets.plugins import spec

SLICE_S, SECONDS, LIMIT_S = 0.05, 6, 120.0
APP = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nireq", "1", "-nthreads", "1", "-infer_precision", "f32"]
MEDIAN = re.compile(r"Median:\s+([\d.]+) (us|ms)")
PROFILED = """
import sys
import numpy as np
import onnxruntime as ort
from targets import timing
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
options.enable_profiling, options.profile_file_prefix = True, sys.argv[2]
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {i.name: np.random.default_rng(0).standard_normal(i.shape, np.float32) for i in session.get_inputs()}
names = [o.name for o in session.get_outputs()]
samples = timing.block(lambda given: dict(zip(names, session.run(names, given))), feeds, 400, settle=50)
print(session.end_profiling(), np.median(samples))
"""


def benchmark_app(target: Target, built: Path, core: int) -> tuple[float, float]:
    """Nanoseconds by our loop and by OpenVINO's own tool: synchronous, one request, one thread, float32."""
    tool = str(Path(sys.executable).with_name("benchmark_app"))
    pinned = ["taskset", "-c", str(core)]
    command = [*pinned, tool, "-m", str(built / "model.xml"), *APP, "-t", str(SECONDS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        start([*pinned, sys.executable, "-m", "targets.agent"], _env()) as ours,
    ):
        feeds = _feeds(target, built, Path(folder))
        ours.call("load", LIMIT_S, **spec(target), built=str(built), feeds=str(feeds), cores=[core])
        median_ns = ours.call("warm", LIMIT_S, limit_s=2.0)["median_ns"]
        theirs = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_env())
        samples: list[int] = []
        turn = max(1, round(SLICE_S * 1e9 / median_ns))
        while theirs.poll() is None:
            os.kill(theirs.pid, signal.SIGSTOP)
            samples += ours.call("block", LIMIT_S, calls=turn)["samples_ns"]
            os.kill(theirs.pid, signal.SIGCONT)
            time.sleep(SLICE_S)
        printed = theirs.communicate()[0]
    said = MEDIAN.search(printed)
    if said is None:
        raise RuntimeError(f"benchmark_app names no median: {printed[-500:]}")
    # What ran beside the other tool's start is left out.
    kept = samples[len(samples) // 4 :]
    return float(np.median(kept)), float(said[1]) * {"us": 1e3, "ms": 1e6}[said[2]]


def profiler(target: Target, built: Path, core: int) -> tuple[float, float]:
    """Nanoseconds by our loop and by the `model_run` events of ONNX Runtime's profiler, of the same calls."""
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, "-c", PROFILED, str(built / "model.ort"), f"{folder}/profile"]
        command = ["taskset", "-c", str(core), *script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_env())
        path, median_ns = done.stdout.split()[-2:]
        events = json.loads(Path(path).read_text())
    runs = [event["dur"] for event in events if event["name"] == "model_run"]
    return float(median_ns), float(np.median(runs[-400:])) * 1e3


def _feeds(target: Target, built: Path, folder: Path) -> Path:
    with target.open(built) as runner:
        shapes = dict(runner.inputs)
    random = np.random.default_rng(0)
    save(folder / "feeds.npz", {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})
    return folder / "feeds.npz"


def _env() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
