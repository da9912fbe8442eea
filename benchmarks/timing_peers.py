"""Medians of one model by our loop beside OpenVINO's benchmark_app and ONNX Runtime's profiler.

A shared machine changes its speed by tens of percent within seconds, for whoever runs then. So they share every
tenth of a second: benchmark_app and our processes are stopped and continued in turns on one core, and the profiler
watches the very calls that our loop times.

Our calls copy inputs in and outputs out, as an application does; the peers' figures hold no copies. So the loop times
a second kind of call too, which runs on what the runtime's own tensors hold: that is like for like.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from targets.base import Target
from targets.client import start
from targets.npz import save
from targets.plugins import spec

SLICE_S, SECONDS, LIMIT_S = 0.05, 8, 120.0
# At least, of slow models: the call amid which the other tool is stopped counts the whole pause, and moves its median.
CALLS_OF_A_SLICE = 25
APP = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nireq", "1", "-nthreads", "1", "-infer_precision", "f32"]
CALLS, SETTLED = 400, 50  # of each kind that the profiler watches
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
calls, settle = int(sys.argv[3]), int(sys.argv[4])
whole = timing.block(lambda given: dict(zip(names, session.run(names, given))), feeds, calls, settle=settle)
binding = session.io_binding()
for name, array in feeds.items():
    binding.bind_cpu_input(name, array)
for name in names:
    binding.bind_output(name, "cpu")
bare = timing.block(lambda given: session.run_with_iobinding(binding), feeds, calls, settle=settle)
print(session.end_profiling(), np.median(whole), np.median(bare))
"""
BARE = """
import json, sys
import numpy as np
from targets import timing
from targets.backends.cpu import load_openvino
config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
request = load_openvino().Core().compile_model(sys.argv[1], "CPU", config).create_infer_request()
for tensor in request.input_tensors:
    tensor.data[:] = np.random.default_rng(0).standard_normal(tensor.data.shape, np.float32)
for line in sys.stdin:
    samples = timing.block(lambda given: request.infer(share_outputs=True), {}, int(line))
    print(json.dumps(samples), flush=True)
"""


@dataclass(frozen=True)
class Medians:
    """Nanoseconds a call, of the same stretches of time."""

    ours: float  # as edgesmith times it, with copies
    bare: float  # the same loop around the runtime's call alone
    theirs: float


def benchmark_app(target: Target, built: Path, core: int) -> Medians:
    """Nanoseconds by our loop and by OpenVINO's own tool: synchronous, one request, one thread, float32."""
    tool = str(Path(sys.executable).with_name("benchmark_app"))
    pinned = ["taskset", "-c", str(core)]
    command = [*pinned, tool, "-m", str(built / "model.xml"), *APP, "-t", str(SECONDS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        start([*pinned, sys.executable, "-m", "targets.agent"], _env()) as ours,
        _bare([*pinned, sys.executable, "-c", BARE, str(built / "model.xml")]) as bare,
    ):
        feeds = _feeds(target, built, Path(folder))
        ours.call("load", LIMIT_S, **spec(target), built=str(built), feeds=str(feeds), cores=[core])
        median_ns = ours.call("warm", LIMIT_S, limit_s=2.0)["median_ns"]
        theirs = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_env())
        samples: list[list[int]] = []
        without: list[list[int]] = []
        turn = max(CALLS_OF_A_SLICE, round(SLICE_S * 1e9 / median_ns))
        slice_s = turn * median_ns / 1e9
        try:
            while theirs.poll() is None:
                os.kill(theirs.pid, signal.SIGSTOP)
                samples.append(ours.call("block", LIMIT_S, calls=turn)["samples_ns"])
                without.append(bare(turn))
                os.kill(theirs.pid, signal.SIGCONT)
                time.sleep(slice_s)
            printed = theirs.communicate()[0]
        finally:
            theirs.kill()  # it may be stopped
    said = MEDIAN.search(printed)
    if said is None:
        raise RuntimeError(f"benchmark_app names no median: {printed[-500:]}")
    # What ran beside the other tool's start is left out.
    first = len(samples) // 4
    medians = [float(np.median(np.concatenate(blocks[first:]))) for blocks in (samples, without)]
    return Medians(*medians, float(said[1]) * {"us": 1e3, "ms": 1e6}[said[2]])


def profiler(target: Target, built: Path, core: int) -> Medians:
    """Nanoseconds by our loop and by the `model_run` events of ONNX Runtime's profiler, of the same calls.

    Those of the profiler are of the calls with copies; `bare` is scaled to them by its own events.
    """
    with tempfile.TemporaryDirectory() as folder:
        counts = [str(CALLS), str(SETTLED)]
        script = [sys.executable, "-c", PROFILED, str(built / "model.ort"), f"{folder}/profile", *counts]
        command = ["taskset", "-c", str(core), *script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_env())
        path, whole_ns, bare_ns = done.stdout.split()[-3:]
        events = json.loads(Path(path).read_text())
    runs = [event["dur"] * 1e3 for event in events if event["name"] == "model_run"]
    theirs, beside = (float(np.median(part[SETTLED:])) for part in (runs[: -CALLS - SETTLED], runs[-CALLS - SETTLED :]))
    return Medians(float(whole_ns), float(bare_ns) * theirs / beside, theirs)


@contextmanager
def _bare(command: list[str]) -> Iterator[Callable[[int], list[int]]]:
    """A process that times calls without copies, so many each time it is asked."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_env()) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        asks, answers = process.stdin, process.stdout

        def block(calls: int) -> list[int]:
            print(calls, file=asks, flush=True)
            found: list[int] = json.loads(answers.readline())
            return found

        block(SETTLED)
        yield block
        asks.close()


def _feeds(target: Target, built: Path, folder: Path) -> Path:
    with target.open(built) as runner:
        shapes = dict(runner.inputs)
    random = np.random.default_rng(0)
    save(folder / "feeds.npz", {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})
    return folder / "feeds.npz"


def _env() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
