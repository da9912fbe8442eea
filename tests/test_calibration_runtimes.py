"""The schemes on the real runtimes: which kernels run in int8, and how close the result is."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from calibration_nets import resnet, run, samples, saved, sqnr_db

from calibration.collect import collect
from calibration.graph import pool_spatial_means
from calibration.observers import make, names
from calibration.placement import place
from targets.base import Int8Scheme

OPENVINO = Int8Scheme(joined=("Add", "MaxPool", "Concat"))
ONNXRUNTIME = Int8Scheme(
    joined=("Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"),
    quantize_outputs=True,
    quantize_bias=True,
)


@pytest.fixture(params=names())
def nets(request, tmp_path: Path):
    """The float model and, by scheme, the int8 one; calibrated by each observer."""
    made = pool_spatial_means(resnet(mean="ReduceMean"))
    ranges = collect(saved(made, tmp_path), [{"x": samples(32)}], make(request.param))
    return made, lambda scheme: place(made, ranges, scheme).model


def test_openvino_runs_every_product_in_int8(nets, tmp_path):
    made, quantized = nets
    path = saved(quantized(OPENVINO), tmp_path)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(path, "CPU", options)
    kernels: Counter[tuple[str, str]] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kernels[str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str))] += 1
    assert kernels["Convolution", "u8"] == 6
    assert kernels["FullyConnected", "u8"] == 1
    assert kernels["Pooling", "u8"] == 1
    assert kernels["Convolution", "f32"] == kernels["FullyConnected", "f32"] == 0
    x = samples(16, seed=9)
    y = np.concatenate([compiled([sample[None]])[0] for sample in x])
    assert sqnr_db(run(made, x), y) > 25


def test_onnxruntime_runs_every_kernel_in_int8(nets, tmp_path):
    made, quantized = nets
    x = samples(16, seed=9)
    optimized = tmp_path / "optimized.onnx"
    assert sqnr_db(run(made, x), run(quantized(ONNXRUNTIME), x, optimized)) > 25
    ops = Counter(n.op_type for n in onnx.load(optimized).graph.node)
    assert (ops["QLinearConv"], ops["QLinearAdd"], ops["QGemm"]) == (6, 2, 1)
    # one step into int8, and nothing that goes back to float on the way: the last product writes it itself
    assert ops["QuantizeLinear"] == 1
    assert not ops.keys() & {"Conv", "FusedConv", "Add", "Relu", "Gemm", "MatMul", "DequantizeLinear"}
