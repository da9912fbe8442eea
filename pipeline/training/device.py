"""Where a model is trained, in which precision, and batches on their way there."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.training.config import Devices, Precision

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` ("auto", "cpu", "cuda", "cuda:1" …) stands for. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"accelerator: {name!r} cannot be used here ({reason}); try auto or cpu") from error
    return device


def resolve_count(devices: Devices, accelerator: str) -> int:
    """Return how many devices train together; "auto" is every GPU there is, or one CPU. Raises UserError."""
    device = resolve_device(accelerator)
    several = device.type == "cuda" and device.index is None
    if devices == "auto":
        return torch.cuda.device_count() if several else 1
    if devices > 1 and not (several or device == torch.device("cpu")):
        raise UserError(f"devices: {devices}, but accelerator {accelerator!r} is one device; use cuda, cpu or auto")
    if several and devices > (there := torch.cuda.device_count()):
        raise UserError(f"devices: {devices}, but CUDA sees {there} here; use auto, or at most {there}")
    return devices


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return what to compute in; "auto" is bfloat16 where the hardware multiplies it. Raises UserError."""
    if precision == "f16" and device.type != "cuda":
        raise UserError(f"precision: f16 trains on a CUDA GPU only, this is {device.type}; use auto, bf16 or f32")
    if precision != "auto":
        return _DTYPES[precision]
    return torch.bfloat16 if _multiplies_bf16(device) else torch.float32


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AMX or AVX512-BF16 there; elsewhere bfloat16 is emulated, and slower than float32.
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def place(model: nn.Module, device: torch.device, memory_format: torch.memory_format) -> None:
    """Move a model to a device, its convolution weights into a layout; channels-last convolves faster."""
    model.to(device)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(device, memory_format=memory_format)


def to_device(x: NDArray[np.float32], device: torch.device) -> Tensor:
    """Copy inputs to a device, images in the channels-last layout."""
    tensor = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.to(device, non_blocking=True)
