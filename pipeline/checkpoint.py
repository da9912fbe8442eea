"""A model between two stages: a folder of plain files, nothing pickled.

weights.safetensors   the parameters and buffers
plan.json, plan-2…    the plans, of any kind, that turn a freshly built model into this one, in order
model.onnx            what would ship in float if the pipeline stopped here; batch 1
info.json             params, macs, and the stage's own figures
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import plans as kinds
from pipeline.errors import UserError
from pipeline.plans import ModelPlan
from pipeline.references import DataSpec, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKED_SAMPLES = 8  # samples on which the ONNX file is compared with the module


@dataclass(frozen=True)
class Info:
    """What a stage tells of its result besides the files."""

    params: int
    macs: int
    figures: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write `info.json` into `folder`."""
        fields = {"params": self.params, "macs": self.macs, "figures": dict(self.figures)}
        (folder / "info.json").write_text(json.dumps(fields, indent=1))

    @staticmethod
    def load(folder: Path) -> "Info | None":
        """Read `info.json` of `folder`; None where there is none."""
        path = folder / "info.json"
        return Info(**json.loads(path.read_text())) if path.is_file() else None


def save(
    folder: Path, model: "nn.Module", plans: Sequence[ModelPlan], data: DataSpec, figures: Mapping[str, Any]
) -> None:
    """Write a model's folder, its ONNX file included."""
    import torch

    from pipeline.exporting import metadata_of, to_onnx
    from pipeline.pruning.counters import count
    from pipeline.training import state

    loaded = data.load()
    samples = loaded.calibration[:CHECKED_SAMPLES][0]
    model = model.eval().to("cpu")
    state.save(folder / "weights.safetensors", model.state_dict(), {})
    for i, plan in enumerate(plans, 1):
        plan.save(folder / _plan_name(i))
    metadata = metadata_of(loaded.preprocessing, loaded.classes)
    delta = to_onnx(model, samples, folder / "model.onnx", 1, metadata)
    counts = count(model, (torch.from_numpy(samples[:1]),))
    Info(counts.params, counts.macs, {**figures, "onnx_max_abs_delta": delta}).save(folder)


def load(folder: Path, spec: ModelSpec, data: DataSpec) -> tuple["nn.Module", list[ModelPlan]]:
    """Build the model, replay its plans and load its weights; plans that capture it do so on samples."""
    plans = plans_in(folder)
    example = example_of(data) if any(plan.captures for plan in plans) else None
    model = kinds.replay(plans, spec.build(), example)
    load_weights(model, folder / "weights.safetensors")
    return model, plans


def example_of(data: DataSpec, samples: int = 2) -> "Tensor":
    """Return what a model is captured on: with two samples, a batch size written into its forward shows."""
    import torch

    return torch.from_numpy(data.load().calibration[:samples][0])


def plans_in(folder: Path) -> list[ModelPlan]:
    """The plans of a model's folder, in the order they apply."""
    plans: list[ModelPlan] = []
    while (path := folder / _plan_name(len(plans) + 1)).is_file():
        plans.append(kinds.load(path))
    return plans


def plans_at(path: Path) -> list[ModelPlan]:
    """The plans of a model's folder, or the one in a file. Raises UserError where there is none."""
    if not path.is_dir():
        return [kinds.load(path)]
    found = plans_in(path)
    if not found:
        raise UserError(f"{path} has no plan.json; give a plan, or a folder that prune, factorize or finetune wrote")
    return found


def _plan_name(number: int) -> str:
    return "plan.json" if number == 1 else f"plan-{number}.json"


def carry(source: Path, folder: Path) -> None:
    """Copy a model's folder into `folder`, for a stage that adds to it."""
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)


def source_model(spec: ModelSpec) -> "nn.Module":
    """Build the model of a recipe with its weights. Raises UserError where the two do not fit."""
    model = spec.build()
    if spec.weights is not None:
        load_weights(model, Path(spec.weights))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{spec.factory.ref}: {name} has NaN or infinite weights: the training diverged")
    return model


def load_weights(model: "nn.Module", path: Path) -> None:
    """Load a safetensors file or a `torch.save`d state dict (tensors only: nothing in it is executed).

    Raises UserError if a tensor is missing, unknown, of another shape, or not finite.
    """
    given = _read(path)
    wanted = model.state_dict()
    ours = {k for k in wanted if not k.endswith("num_batches_tracked")}
    theirs = {k for k in given if not k.endswith("num_batches_tracked")}
    if missing := sorted(ours - theirs):
        raise UserError(f"{path} does not fit the model: it lacks {_some(missing)}")
    if unknown := sorted(theirs - ours):
        raise UserError(f"{path} does not fit the model: the model has no {_some(unknown)}")
    for name in sorted(ours):
        if given[name].shape != wanted[name].shape:
            a, b = tuple(given[name].shape), tuple(wanted[name].shape)
            raise UserError(f"{path} does not fit the model: {name} is {a} there and {b} in the model")
        if given[name].is_floating_point() and not given[name].isfinite().all():
            raise UserError(f"{path}: {name} has NaN or infinite weights: the training diverged")
    model.load_state_dict(given, strict=False)


def _read(path: Path) -> dict[str, "Tensor"]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no readable safetensors file: {error}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} holds more than tensors, which is not loaded for safety; "
            "save it with torch.save(model.state_dict(), …) or as safetensors"
        ) from error
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(inner, dict) or not all(isinstance(v, torch.Tensor) for v in inner.values()):
        raise UserError(f"{path} holds no state dict; save it with torch.save(model.state_dict(), …)")
    return inner


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
