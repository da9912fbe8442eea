"""Building an engine with TensorRT's Python package: one way for 8.6, 10, 11 and TensorRT for RTX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from targets.backends import _tensorrt
from targets.backends._tensorrt import Api, Messages
from targets.backends._trtexec import quantized
from targets.base import TargetError


@dataclass(frozen=True)
class Wish:
    """What to build, and for what."""

    onnx: Path
    max_batch: int = 1  # of a model with a dynamic batch
    capability: Optional[str] = None  # TensorRT for RTX alone: another than the GPU at hand
    dla: Optional[int] = None
    cache: Optional[bytes] = None  # a timing cache to begin with, b"" for a new one; None: none


@dataclass(frozen=True)
class Engine:
    """An engine, and what the builder told of it."""

    serialized: bytes
    said: Dict[str, Any]  # its layers, in the form of the inspector's JSON; empty where the log has none
    cache: bytes  # the timing cache as it is now
    on_gpu: Tuple[str, ...]  # layers that the DLA cannot run


def build(api: Api, wish: Wish) -> Engine:
    """Compile. Raises TargetError with TensorRT's words."""
    trt = api.module
    log = _tensorrt.messages(trt)
    builder = trt.Builder(log.logger)
    typed = wish.dla is None  # a DLA has no strong typing
    network, parser = _tensorrt.parse(trt, builder, log, wish.onnx, typed)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # f32 means f32: the source is compared against
    if wish.capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_tensorrt.capability(trt, wish.capability), 0)
    _precision(trt, config, wish)
    on_gpu = _dla(trt, config, network, wish.dla)
    _add_profile(builder, network, config, wish.max_batch)
    if wish.cache is not None:
        config.set_timing_cache(config.create_timing_cache(wish.cache), False)
    serialized = builder.build_serialized_network(network, config)
    del parser  # it owned the weights until here
    if serialized is None:
        where = f" for SM {wish.capability}" if wish.capability else ""
        raise TargetError(f"TensorRT cannot build {wish.onnx}{where}: {log.first()}")
    cache = bytes(config.get_timing_cache().serialize()) if wish.cache is not None else b""
    return Engine(bytes(serialized), _said(log), cache, on_gpu)


def _said(log: Messages) -> Dict[str, Any]:
    return _tensorrt.logged(log.layers[-1] if log.layers else "")


def _precision(trt: Any, config: Any, wish: Wish) -> None:
    """Ask for int8 where the network is weakly typed: 8.6 refuses Q/DQ pairs without, as does a DLA."""
    weak = wish.dla is not None or not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if weak and quantized(wish.onnx):
        config.set_flag(trt.BuilderFlag.INT8)
    if wish.dla is not None:
        config.set_flag(trt.BuilderFlag.FP16)


def _dla(trt: Any, config: Any, network: Any, core: Optional[int]) -> Tuple[str, ...]:
    """Send layers to a DLA; return those that it cannot run, which go to the GPU."""
    if core is None:
        return ()
    if not hasattr(trt.BuilderFlag, "INT8"):
        raise TargetError(f"target jetson: TensorRT {trt.__version__} has no DLA; leave dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))


def _add_profile(builder: Any, network: Any, config: Any, max_batch: int) -> None:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic: List[Any] = [t for t in tensors if -1 in tuple(t.shape)]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        rest = tuple(tensor.shape)[1:]
        if -1 in rest:
            raise TargetError(f"input {tensor.name} is dynamic beyond its batch: {tuple(tensor.shape)}")
        profile.set_shape(tensor.name, (1, *rest), (1, *rest), (max_batch, *rest))
    config.add_optimization_profile(profile)
