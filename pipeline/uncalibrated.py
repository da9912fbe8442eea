"""The methods of `edgesmith quantize` without ranges: int8 as values come, int8 weights alone, and float16."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import onnx
from onnx import ModelProto

from calibration.graph import label
from calibration.placement import compress
from pipeline.errors import UserError
from pipeline.judging import running
from pipeline.quantizing import INTEGER_OPS, Job, Made, Source, Weighted, equalized, floor_of, weights_for
from pipeline.weight_options import WeightOptions

DYNAMIC = ("MatMul", "Gemm", "LSTM")  # ops that onnxruntime quantizes as they run


def dynamic(job: Job, source: Source) -> Made:
    """Weights in int8, activations quantized as they come: onnxruntime's own `quantize_dynamic`.

    Raises UserError for other runtimes, which lack the operators, and for a model with nothing of the kind.
    """
    from onnxruntime.quantization import quantize_dynamic

    if "onnxruntime" not in job.target.uses:
        raise UserError(f"--method dynamic: target {job.target.name()} has no such kernels; use --target mobile")
    _check_static_only(job)
    start_s = time.perf_counter()
    out = source.prepared.with_name("dynamic.onnx")
    with _silent():
        quantize_dynamic(source.prepared, out, list(DYNAMIC), per_channel=True, nodes_to_exclude=_asked(job))
    made = onnx.load(out)
    kept = {node.name: node.op_type for node in made.graph.node if node.op_type in DYNAMIC}
    if not {node.op_type for node in made.graph.node} & INTEGER_OPS:
        raise UserError(f"{job.model}: has no {', '.join(DYNAMIC)} with a constant weight: use --method static")
    asked = set(job.settings.exclude)
    skipped = {n: "left in float by request" if n in asked else "its weight is computed, not stored" for n in kept}
    return _judged(job, source, made, skipped, start_s)


def weights_only(job: Job, source: Source) -> Made:
    """Weights in int8 that are dequantized as the model runs in float: a quarter of the size, at the float speed.

    Raises UserError for a model without weights of the kind.
    """
    _check_all_or_nothing(job)
    start_s = time.perf_counter()
    model, done = equalized(job, source)
    ready = Weighted(model, done, weights_for(job, source, model))
    made = compress(model, job.target.scheme, ready.weights, dict.fromkeys(job.settings.exclude, "request"))
    if not made.quantized:
        raise UserError(f"{job.model}: has no weights that target {job.target.name()} takes in int8; ship it in float")
    skipped = {**dict.fromkeys(made.quantized, "its weights alone are int8"), **made.skipped}
    judged = _judged(job, source, made.model, skipped, start_s)
    return replace(judged, made_of=ready, rounded_anew=made.nearest)


def half(job: Job, source: Source) -> Made:
    """The model in float16, its inputs and outputs in float32 as before, by onnxruntime's own converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    _check_static_only(job)
    start_s = time.perf_counter()
    made = convert_float_to_float16(onnx.load(source.prepared), keep_io_types=True, node_block_list=_asked(job))
    OnnxModel(made).topological_sort()  # the converter appends its casts at the end
    skipped = {label(node): "the model is in float16" for node in source.model.graph.node}
    return _judged(job, source, made, skipped, start_s)


def _asked(job: Job) -> list[str]:
    return list(job.settings.exclude)


def _check_all_or_nothing(job: Job) -> None:
    settings = job.settings
    if settings.max_drop is not None or settings.min_sqnr is not None or settings.sensitivity:
        raise UserError(
            f"--method {settings.method} is all or nothing: floors and --sensitivity go with --method static;"
            " --exclude leaves single nodes in float32"
        )


def _check_static_only(job: Job) -> None:
    settings = job.settings
    _check_all_or_nothing(job)
    if settings.weights != WeightOptions():
        raise UserError(
            f"--method {settings.method}: the weights are rounded by the converter itself; --scale, --bias, --rounding"
            " and --equalize go with --method static"
        )


def _judged(job: Job, source: Source, model: ModelProto, skipped: Mapping[str, str], start_s: float) -> Made:
    seconds = {"quantize": time.perf_counter() - start_s}
    floor = floor_of(job, source)
    if floor is None:
        return Made(model, skipped, seconds=seconds)
    with running(model, source.inputs, job.target, job.place) as run:
        return Made(model, skipped, floor=floor, value=floor.metric(run), seconds=seconds)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep onnxruntime's advice to run its own preparation, on the root logger, off the console."""
    disabled, logging.root.disabled = logging.root.disabled, True
    try:
        yield
    finally:
        logging.root.disabled = disabled
