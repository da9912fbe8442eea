"""The ONNX file that would ship to a target if the pipeline stopped at an artifact."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx

from calibration.kernels import weighted_ops
from calibration.placement import Scheme, place
from calibration.ranges import Ranges
from calibration.weights import FILE, Weights
from pipeline.exporting import describe
from targets.coverage import Op

MODEL, RANGES, LOWERED, PLACEMENT = "model.onnx", "ranges.json", "lowered.json", "placement.json"


@dataclass(frozen=True)
class Lowered:
    """What lowering did besides writing the file."""

    int8: bool
    quantized: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    nearest: tuple[tuple[str, str], ...] = ()  # ops that do not have the weights chosen for them, and why
    ops: tuple[Op, ...] = ()  # that int8 kernels exist for

    def figures(self) -> dict[str, Any]:
        """The figures for the report."""
        if not self.int8:
            return {}
        found = {"quantized_ops": len(self.quantized), "float_ops": dict(self.skipped)}
        return {**found, "rounded_anew": dict(self.nearest)} if self.nearest else found

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Lowered":
        """Read what `save` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        ops = tuple(Op(op["name"], op["kind"], tuple(op["writes"])) for op in told["ops"])
        skipped, nearest = (tuple((name, why) for name, why in told[key]) for key in ("skipped", "nearest"))
        return cls(told["int8"], tuple(told["quantized"]), skipped, nearest, ops)


def lower(
    model: Path,
    ranges: Path | None,
    scheme: Scheme,
    out: Path,
    weights: Path | None = None,
    exclude: Mapping[str, str] = MappingProxyType({}),
) -> Lowered:
    """Write the float model with Q/DQ pairs where `scheme` wants them; without ranges, as it is.

    Its int8 weights are those in the file `weights` where they fit the scheme. `exclude` says which ops stay in
    float whatever the scheme wants, and why (`left_out`).
    """
    proto = onnx.load(model)
    if ranges is None:
        onnx.save(proto, out)
        return Lowered(int8=False)
    chosen = Weights.load(weights) if weights else None
    placed = place(proto, Ranges.load(ranges), scheme, weights=chosen, exclude=exclude)
    describe(placed.model, {"edgesmith.int8": json.dumps({"ops": len(placed.quantized)})})
    onnx.save(placed.model, out)
    ops = tuple(Op(op.name, op.kind, op.writes) for op in weighted_ops(proto, scheme.weighted))
    return Lowered(True, tuple(placed.quantized), tuple(placed.skipped.items()), tuple(placed.nearest.items()), ops)


def lowered_files(folder: Path) -> tuple[Path, Path | None, Path | None]:
    """The float model of an artifact; its ranges and int8 weights where it has been calibrated."""
    ranges, weights = (path if path.is_file() else None for path in (folder / RANGES, folder / FILE))
    return folder / MODEL, ranges, weights


def left_out(folder: Path) -> dict[str, str]:
    """The ops that an artifact's measured placement leaves in float, and why; none where there is none."""
    path = folder / PLACEMENT
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["floats"] if path.is_file() else {}
    return found


def leave_out(folder: Path, floats: Mapping[str, str]) -> None:
    """Write what `left_out` reads."""
    told = {"schema": "edgesmith.placement/1", "floats": dict(floats)}
    (folder / PLACEMENT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
