"""Runs as `deploy` writes them, of networks made of equal layers: twice the layers, twice the work."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline import fingerprint
from pipeline.assess import latency
from pipeline.report.schema import Coverage, DeviceInfo, Interval, Precision, Proportion, Report, StageReport, Verdict
from targets.backends.cpu import Cpu
from targets.devices.base import Timing
from targets.devices.local import Local
from targets.npz import save
from targets.stats import wilson

CHANNELS, SIZE = 16, 10


def chain(layers: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "input"
    for i in range(layers):
        values = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(CHANNELS * 9 / 2)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE]) for n in ("input", last)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def row(**changes: Any) -> StageReport:
    """A stage's row with nothing measured."""
    fields: dict[str, Any] = {
        "stage": "compile",
        "status": "ok",
        "cached": False,
        "wall_s": 0.1,
        "size_bytes": 1000,
        "params": None,
        "macs": None,
        "metrics": {"top1": proportion(9200, 10000)},
        "latency": None,
        "speedup": None,
        "ratio_to_previous": None,
        "memory_peak_bytes": 100_000_000,
        "runtime": {},
        "precision": Precision(requested="f32", ran={}),
        "device": None,
        "proxy": False,
        "warnings": (),
        "verdict": Verdict(kind="reference", text="as it came"),
        "figures": {},
    }
    return StageReport(**{**fields, **changes})


def proportion(successes: int, n: int) -> Proportion:
    found = wilson(successes, n)
    return Proportion(value=found.value, low=found.low, high=found.high, n=n)


def covered(int8: int, ops: int) -> Coverage:
    return Coverage(int8={"Conv": int8}, ops={"Conv": ops}, floats={}, ran=True, text=f"{int8} of {ops} Conv")


def interval(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)


def write_run(folder: Path, layers: int, gate: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Build, measure and write a run; `changes` are of its row."""
    model = folder / "model"
    model.mkdir(parents=True)
    onnx.save(chain(layers), folder.with_suffix(".onnx"))
    Local().build(Cpu(), folder.with_suffix(".onnx"), model)
    feeds = folder.with_suffix(".npz")
    save(feeds, {"input": np.ones((1, CHANNELS, SIZE, SIZE), np.float32)})
    measured = Local().measure({"a": (Cpu(), model)}, feeds, Timing(samples=60, rounds=6, launches=1, max_s=4))["a"]
    machine = Local().fingerprint(Cpu())
    found: dict[str, Any] = {
        "latency": latency(measured),
        "size_bytes": sum(path.stat().st_size for path in Cpu().shipped(model)),
        "memory_peak_bytes": measured.memory_peak_bytes,
        "device": DeviceInfo(name="local", digest=machine.digest, fingerprint=asdict(machine)),
    }
    write_report(folder, report(row(**{**found, **changes})), asdict(machine), gate)
    return folder


def report(of: StageReport) -> Report:
    return Report(
        recipe="chain",
        target="cpu",
        created="2026-01-01T00:00:00+00:00",
        versions=Cpu().versions(),
        git_commit=None,
        budget={},
        timing={},
        shipped="source",
        not_run=None,
        stages=(of,),
    )


def write_report(folder: Path, told: Report, machine: dict[str, Any], gate: dict[str, Any] | None = None) -> None:
    """Write report.json, and the manifest over all files that are there."""
    (folder / "report.json").write_text(told.model_dump_json(by_alias=True))
    (folder / "manifest.json").unlink(missing_ok=True)
    files = fingerprint.files_in(folder)
    manifest = {
        "schema": "edgesmith.manifest/1",
        "files": {name: {"sha256": sha, "size": (folder / name).stat().st_size} for name, sha in files.items()},
        "recipe": {"name": "chain", "gate": gate or {}},
        "target": {"name": "cpu", **asdict(Cpu())},
        "device": machine,
        "inputs": {"input": [1, CHANNELS, SIZE, SIZE]},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edited(folder: Path, **changes: Any) -> Path:
    """The same run with another manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder
