"""A model of about 1 ms, and the same with 2, 5 and 10% more work: more of its layers, all of one size.

The layers are depthwise, for their small weights: 5% more of dense ones, a megabyte in all, took 6.5% more time, as
less of them stayed in the cache.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets.backends.cpu import Cpu
from targets.devices.local import Local
from targets.npz import save

CHANNELS, SIZE = 16, 26
LAYERS = 100  # 1% of the work each
SLOWDOWNS = (0, 2, 5, 10)  # percent


def chain(layers: int) -> onnx.ModelProto:
    """Depthwise convolutions of one size, each with its ReLU."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "input"
    for i in range(layers):
        values = rng.standard_normal((CHANNELS, 1, 3, 3)) / np.sqrt(9 / 2)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4, group=CHANNELS))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        last = f"r{i}"
    shape = [1, CHANNELS, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", last)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def prepare(folder: Path) -> dict[str, Path]:
    """Build what is missing: "baseline", and per slowdown in percent what is raced against it; "feeds" too.

    The one with 0% is a copy of the baseline, in a folder of its own.
    """
    found = {"baseline": folder / "baseline", **{str(percent): folder / f"slower{percent}" for percent in SLOWDOWNS}}
    if not (folder / "feeds.npz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in found.items():
            shutil.rmtree(path, ignore_errors=True)
            if name == "0":
                shutil.copytree(found["baseline"], path)
                continue
            path.mkdir()
            layers = LAYERS if name == "baseline" else LAYERS * (100 + int(name)) // 100
            onnx.save(chain(layers), path.with_suffix(".onnx"))
            Local().build(Cpu(), path.with_suffix(".onnx"), path)
        values = np.random.default_rng(1).standard_normal((1, CHANNELS, SIZE, SIZE))
        save(folder / "feeds.npz", {"input": values.astype(np.float32)})
    return {**found, "feeds": folder / "feeds.npz"}
