"""The models of benchmarks/int8.py in int8 for TensorRT: do they parse and build, and what runs in int8 then?

`edgesmith quantize --target gpu` on each: engines ahead of time where there is no GPU (extra `rtx`), int8 coverage as
the builder tells it. Beside the package it needs what benchmarks/int8.py needs, but for the peers.

    python benchmarks/int8_tensorrt.py [--models NAME …] [--samples N] [--json FILE]
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.int8_models import MODELS
from calibration.errors import CalibrationError
from pipeline.devices import place
from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.quantized import quantize
from pipeline.quantizing import Job, Settings
from targets.backends.gpu import Gpu
from targets.base import TargetError


def built(name: str, samples: int) -> dict[str, Any]:
    """What the report of one model says; {"failed": why} where it cannot be quantized or built."""
    target = Gpu(capabilities=("8.6",))
    with TemporaryDirectory() as folder:
        (Path(folder) / "calls").mkdir()
        for i, sample in enumerate(MODELS[name].samples("calibrate", samples)):
            np.savez(Path(folder, "calls", f"{i:06}.npz"), **sample.feeds)
        settings = Settings(samples=samples)
        job = Job(MODELS[name].path(name), Path(folder) / "calls", target, place(target, None), settings, SILENT)
        try:
            report = quantize(job, Path(folder) / "int8.onnx")
        except (UserError, CalibrationError, TargetError) as error:
            return {"failed": str(error)}
    return {
        "versions": report.versions,
        "float_bytes": report.float_.size_bytes,
        "int8_bytes": report.int8.size_bytes,
        "read_from_engine": report.coverage.ran,
        "coverage": report.coverage.text,
        "sqnr_db": {output: found.sqnr_db for output, found in report.outputs.items()},
    }


def main() -> None:
    """Build all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    parser.add_argument("--samples", type=int, default=16, help="to calibrate on")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "int8_tensorrt.json")
    args = parser.parse_args()
    found = {}
    shown = Table("model", "float MB", "int8 MB", "SQNR dB", "in int8", show_lines=True)
    for name in args.models:
        found[name] = built(name, args.samples)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))
        if "failed" in found[name]:
            shown.add_row(name, "", "", "", found[name]["failed"])
            continue
        sizes = (f"{found[name][key] / 2**20:.1f}" for key in ("float_bytes", "int8_bytes"))
        worst = min((db for db in found[name]["sqnr_db"].values() if db is not None), default=None)
        told = found[name]["coverage"] + ("" if found[name]["read_from_engine"] else " (as placed)")
        shown.add_row(name, *sizes, "exact" if worst is None else f"{worst:.1f}", told)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
