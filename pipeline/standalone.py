"""Single steps on plain files, for people who need only one of them."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from calibration.ranges import Ranges
from calibration.weights import Weights
from pipeline import calibrating, lowering, manifest
from pipeline.checkpoint import Info
from pipeline.core import PREVIOUS
from pipeline.devices import Place
from pipeline.errors import UserError
from pipeline.exporting import INPUT, Shape, shapes_of
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.store import Artifact
from pipeline.weight_options import WeightOptions
from targets.base import Target
from targets.devices.base import Measurement, Timing
from targets.npz import save


@dataclass(frozen=True)
class Timed:
    """What one artifact did on one device."""

    measurement: Measurement
    size_bytes: int


def measure(artifact: Path, target: Target, place: Place, timing: Timing, progress: Progress) -> Timed:
    """Time an ONNX file (built first) or a folder that `deploy` wrote, on random input.

    A deployed folder is opened with the options it was built with. Raises UserError for anything else, and
    where nothing can run it.
    """
    if place.why_not:
        raise UserError(f"{target.name()} cannot be timed here: {place.why_not}")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        target, built, shapes = _built(artifact, target, place, scratch)
        rng = np.random.default_rng(0)
        feeds = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        save(scratch / "feeds.npz", feeds)
        with progress.bar(f"time {artifact.name}", timing.rounds) as bar:
            contestants = {"artifact": (target, built)}
            found = place.device.measure(contestants, scratch / "feeds.npz", timing, bar.advance)
        size = sum(path.stat().st_size for path in target.shipped(built))
    return Timed(found["artifact"], size)


def compile_model(model: Path, target: Target, place: Place, out: Path) -> None:
    """Build an ONNX file for a target into the folder `out`. Raises UserError if `out` holds something."""
    load(model)
    with _fresh(out):
        place.device.build(target, model, out)


def equalize(model: Path, out: Path, samples: NDArray[Any], options: WeightOptions, progress: Progress) -> int:
    """Write a float ONNX file equalized to `out`; return how many pairs of convolutions were."""
    pairs: int = calibrating.equalize(model, out, _taken(model, samples), options, progress)["pairs"]
    return pairs


def calibrate(
    model: Path, samples: NDArray[Any], observer: str, options: Mapping[str, float], progress: Progress
) -> Ranges:
    """Observe the activations of a float ONNX file on `samples` `(N, ...)`."""
    return calibrating.observe(model, _taken(model, samples), observer, options, progress)


def choose_weights(model: Path, samples: NDArray[Any], options: WeightOptions, progress: Progress) -> Weights | None:
    """Choose the int8 weights of a float ONNX file on `samples`; None where there is nothing to choose."""
    chosen = calibrating.choose_weights(model, _taken(model, samples), options, progress)
    return None if chosen is None else chosen.weights


def _taken(model: Path, samples: NDArray[Any]) -> calibrating.Samples:
    inputs = shapes_of(load(model))
    if list(inputs) != [INPUT]:
        raise UserError(f"{model}: its inputs are {', '.join(inputs)}; this takes one, named {INPUT!r}")
    return calibrating.Samples(samples.__getitem__, len(samples))


def place_pairs(model: Path, ranges: Path, target: Target, out: Path, weights: Path | None = None) -> lowering.Lowered:
    """Write the int8 ONNX file of a float one for a target, from its ranges and int8 weights."""
    load(model)
    return lowering.lower(model, ranges, target.scheme, out, weights)


def export_recipe(recipe: Recipe, out: Path) -> float:
    """Export a recipe's model in float, with the batch of its export stage; return the largest |Δ|."""
    from pipeline import checkpoint
    from pipeline.exporting import metadata_of, to_onnx

    data = recipe.data_spec().load()
    batch = recipe.options("export")["batch"] if "export" in recipe.sections.stages else 1
    count = max(checkpoint.CHECKED_SAMPLES, batch if isinstance(batch, int) else 0)
    model = checkpoint.source_model(recipe.model_spec())
    metadata = metadata_of(data.preprocessing, data.classes)
    return to_onnx(model, data.calibration[:count][0], out, batch, metadata)


def run_stage(recipe: Recipe, name: str, start: Path | None, out: Path, progress: Progress) -> Info:
    """Run one of a recipe's torch stages on the source model, or on the folder `start`, into `out`."""
    if name not in recipe.sections.stages:
        raise UserError(f"{recipe.path}: stages: has no {name}; add it with its options")
    shared = {"model": recipe.model_spec(), "data": recipe.data_spec()}
    source, stage = (recipe.stage(which, shared) for which in ("source", name))
    if start is not None and not (start / "weights.safetensors").is_file():
        raise UserError(
            f"--from {start}: has no weights.safetensors; give a folder that prune, factorize or finetune wrote"
        )
    with tempfile.TemporaryDirectory() as folder, _fresh(out, keep=("epochs",) if stage.resumable else ()):
        made = Path(folder)
        if start is None or source.name() in stage.reads():
            source.run({}, made, progress)
        inputs = {PREVIOUS: start or made, source.name(): made}
        stage.run({name: Artifact(inputs[name], "") for name in stage.reads()}, out, progress)
    info = Info.load(out)
    if info is None:
        raise UserError(f"{name} left no info.json in {out}")
    return info


@contextmanager
def _fresh(out: Path, keep: tuple[str, ...] = ()) -> Iterator[None]:
    """A folder to fill; if that fails, only `keep` stays of it, for the next try to go on from."""
    out.mkdir(parents=True, exist_ok=True)
    if any(path.name not in keep for path in out.iterdir()):
        raise UserError(f"{out} is not empty: name another folder with --out")
    try:
        yield
    except BaseException:
        for path in [path for path in out.iterdir() if path.name not in keep]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def samples_from(data: Path, limit: int) -> NDArray[np.float32]:
    """Read calibration samples `(N, ...)`: an .npz or .npy file, or a folder of .npy files, one sample each.

    Samples are what the model takes, preprocessed; an .npz has them under the name of the input, or alone.
    """
    if data.is_dir():
        files = sorted(data.glob("*.npy"))[:limit]
        if not files:
            raise UserError(f"--data {data}: the folder has no .npy files")
        arrays = [_array(path) for path in files]
        odd = next((p for p, a in zip(files, arrays, strict=True) if a.shape != arrays[0].shape), None)
        if odd is not None:
            raise UserError(f"--data {odd}: its shape differs from that of {files[0].name}")
        return np.stack(arrays)
    if not data.is_file():
        raise UserError(f"--data {data}: there is no such file or folder")
    samples = _array(data)[:limit]
    if not len(samples):
        raise UserError(f"--data {data}: holds no samples")
    return samples


def load(model: Path) -> onnx.ModelProto:
    """Read an ONNX file. Raises UserError."""
    try:
        return onnx.load(model)
    except FileNotFoundError:
        raise UserError(f"there is no model {model}") from None
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise UserError(f"{model} is no ONNX file: {error}") from error


def _built(artifact: Path, target: Target, place: Place, scratch: Path) -> tuple[Target, Path, dict[str, Shape]]:
    if artifact.suffix == ".onnx":
        shapes = shapes_of(load(artifact))
        (scratch / "model").mkdir()
        place.device.build(target, artifact, scratch / "model")
        return target, scratch / "model", shapes
    if not (artifact / manifest.FILE).is_file():
        raise UserError(f"{artifact}: give an .onnx file, or a folder that `edgesmith deploy` wrote")
    told = manifest.read(artifact)
    name = told.target_name
    if name != target.name():
        raise UserError(f"{artifact} was built for {name}: add --target {name}")
    return told.target(), artifact / "model", told.inputs


def _array(path: Path) -> NDArray[np.float32]:
    """Read an array of samples, or the one of an archive that holds them."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                names = loaded.files
                if INPUT not in names and len(names) != 1:
                    raise UserError(f"--data {path}: has the arrays {', '.join(names)}; name the samples {INPUT!r}")
                loaded = loaded[INPUT if INPUT in names else names[0]]
        found: NDArray[np.float32] = loaded.astype(np.float32)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"--data {path}: not a readable file of numbers ({error})") from error
    if found.ndim == 0:
        raise UserError(f"--data {path}: holds a single number; give samples (N, ...)")
    return found
