"""The ONNX file that ships: static or dynamic batch, Q/DQ pairs where the target's kernels want them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.core import Policy, Stage
from pipeline.progress import Progress
from pipeline.references import DataSpec, ModelSpec
from pipeline.store import Artifact


@dataclass(frozen=True, kw_only=True)
class Export(Stage):
    """Write the deployable ONNX file."""

    on_regression: ClassVar[Policy | None] = None  # it writes what was accepted before it
    uses: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript", "torch")

    model: ModelSpec
    data: DataSpec
    scheme: Mapping[str, Any]  # the fields of the target's Int8Scheme
    batch: Annotated[
        Annotated[int, Field(ge=1)] | Literal["dynamic"], Field(description="images per call, or dynamic")
    ] = 1

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write `model.onnx` and `info.json`."""
        from pipeline import checkpoint, lowering
        from pipeline.exporting import metadata_of, to_onnx
        from targets.base import Int8Scheme

        source = inputs["previous"].path
        float_model, ranges, weights = lowering.lowered_files(source)
        info = checkpoint.Info.load(source)
        figures = dict(info.figures) if info else {}
        with progress.bar("export", 1) as bar:
            if self.batch != 1:
                model, _ = checkpoint.load(source, self.model, self.data)
                data = self.data.load()
                count = max(checkpoint.CHECKED_SAMPLES, self.batch if isinstance(self.batch, int) else 0)
                metadata = metadata_of(data.preprocessing, data.classes)
                float_model = out / "float.onnx"
                samples = data.calibration[:count][0]
                figures["onnx_max_abs_delta"] = to_onnx(model, samples, float_model, self.batch, metadata)
                ranges, weights = self._adopted(source, float_model, out)
            scheme, exclude = Int8Scheme(**self.scheme), lowering.left_out(source)
            lowered = lowering.lower(float_model, ranges, scheme, out / lowering.MODEL, weights, exclude)
            bar.advance()
        for path in (float_model, ranges, weights):
            if path is not None and path.parent == out:
                path.unlink()
        if info:
            kept = {k: figures[k] for k in ("onnx_max_abs_delta",) if k in figures}
            checkpoint.Info(info.params, info.macs, {**kept, **lowered.figures()}).save(out)

    @staticmethod
    def _adopted(source: Path, model: Path, out: Path) -> tuple[Path | None, Path | None]:
        """Ranges and int8 weights of `source` for the same network at another batch size, as files in `out`.

        `model` gets the values of the calibrated one, which may be equalized, or trained in int8.
        """
        import onnx

        from calibration.choosing import carried_over
        from calibration.ranges import Ranges
        from calibration.weights import FILE, Weights
        from pipeline.lowering import lowered_files

        first, ranges, weights = lowered_files(source)
        if ranges is None:
            return None, None
        proto = carried_over(onnx.load(model), onnx.load(first))
        onnx.save(proto, model)
        Ranges.load(ranges).adopted_by(proto).save(out / "ranges.json")
        if weights is None:
            return out / "ranges.json", None
        Weights.load(weights).adopted_by(proto).save(out / FILE)
        return out / "ranges.json", out / FILE
