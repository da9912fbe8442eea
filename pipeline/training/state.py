"""A training run on disk: safetensors with a JSON header, replaced atomically. Nothing is pickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import UserError

_FIX = "remove the file to start this training over"


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able header to `path`, which never holds half a file. Raises UserError."""
    # Copies: safetensors refuses tensors that share memory, and tied weights do.
    flat = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(flat, beside, {"header": json.dumps(header, sort_keys=True)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error}); make room, then run again to go on") from error
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raises UserError for a file that is not one."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["header"])
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, header
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a training checkpoint ({error}); {_FIX}") from error


def sweep(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left in `folder`."""
    for path in folder.glob("*.safetensors.*.tmp"):
        path.unlink(missing_ok=True)


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all parts in one, named "part.name"."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def split(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undo `joined`; a part without tensors is absent."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def of_optimizer(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what the optimizer remembers, as "what.parameter"; nothing before the first step."""
    return {
        f"{what}.{name}": tensor
        for name, parameter in parameters.items()
        for what, tensor in optimizer.state[parameter].items()
        if tensor is not None
    }


def restore_optimizer(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]
) -> None:
    """Give the optimizer back what `of_optimizer` returned."""
    for key, tensor in saved.items():
        what, _, name = key.partition(".")
        parameter = parameters[name]
        # Like the parameter, in device and layout; a count of steps is a single number, and stays on the CPU.
        alike = tensor.shape == parameter.shape and what != "step"
        optimizer.state[parameter][what] = torch.empty_like(parameter).copy_(tensor) if alike else tensor
