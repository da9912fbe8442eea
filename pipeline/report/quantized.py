"""What `edgesmith quantize` tells: `edgesmith.quantized/1` as data, and as a table in the terminal."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report import placed, table
from pipeline.report.schema import Coverage, Interval, Latency, MeasuredPlacement, Verdict
from pipeline.report.terminal import STYLES

METHODS = {"static": "int8", "dynamic": "dynamic int8", "weights": "int8 weights", "f16": "float16"}
EXACT_DB = 999.0  # what stands for the SQNR of equal outputs


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Output(_Model):
    """How close one output is to that of the float model."""

    sqnr_db: Annotated[float | None, Field(description="signal to quantization noise; null: exactly equal")]
    agreement: Annotated[
        float | None, Field(description="share of samples with the same highest class; null: no class scores (N, C)")
    ]


class Accuracy(_Model):
    """What was asked for, and what came of it."""

    name: str
    float_: Annotated[float, Field(alias="float")]
    int8: float
    floor: Annotated[float | None, Field(description="the least that was accepted")]
    evaluations: Annotated[int, Field(description="int8 models judged to find the layers that stay in float")]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Weights(_Model):
    """How the int8 weights were chosen."""

    scale: Annotated[str, Field(description="max: nothing clipped; mse: of least squared error")]
    rounding: Annotated[str, Field(description="nearest or adaround")]
    bias: Annotated[str, Field(description="what took back the mean error of rounding: none, analytic, empirical")]
    samples: Annotated[int, Field(description="that they were chosen on")]
    equalized: Annotated[int | None, Field(description="pairs of convolutions; null: not asked for")]
    not_applied: Annotated[dict[str, dict[str, str]], Field(description="method -> node -> why not to it")]
    rounded_anew: Annotated[
        dict[str, str], Field(description="ops whose kernels want another grid, so that none of it holds, and why")
    ]

    def line(self) -> str:
        """All of it in one line."""
        told = f"weights: scale {self.scale}, rounding {self.rounding}, bias {self.bias}"
        equal = "" if self.equalized is None else f", {self.equalized} pairs equalized"
        anew = f"; {len(self.rounded_anew)} ops are just rounded, for their kernels" if self.rounded_anew else ""
        return f"{told}{equal}{anew}"


class Side(_Model):
    """One of the two models, as built for the target."""

    size_bytes: int
    onnx_bytes: int
    latency: Latency | None
    memory_peak_bytes: int | None
    kernels: Annotated[dict[str, int], Field(description="compute kernels that ran, by precision")]


class Quantized(_Model):
    """One run of `edgesmith quantize`."""

    schema_: Annotated[Literal["edgesmith.quantized/1"], Field(alias="schema")] = "edgesmith.quantized/1"
    model: str
    target: dict[str, Any]
    created: str
    versions: dict[str, str]
    device: dict[str, Any] | None
    proxy: bool
    method: Annotated[str, Field(description="static, dynamic, weights or f16")]
    observer: Annotated[
        dict[str, Any] | None, Field(description="its name and options; of several tried, what each came to in dB")
    ]
    samples: Annotated[int, Field(description="that were calibrated on")]
    weights: Weights | None = None
    evaluated_samples: int
    held_out: Annotated[bool, Field(description="whether those were not calibrated on")]
    evaluated_on: Annotated[str, Field(description="the runtime that computed the int8 outputs")]
    outputs: dict[str, Output]
    accuracy: Accuracy | None
    placement: Annotated[MeasuredPlacement | None, Field(description="where it was measured")] = None
    kept_float: Annotated[dict[str, str], Field(description="ops left in float, and why")]
    coverage: Coverage
    float_: Annotated[Side, Field(alias="float")]
    int8: Side
    ratio: Annotated[Interval | None, Field(description="p50 of int8 over that of float, interleaved")]
    verdict: Verdict
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    written: Annotated[bool, Field(description="whether the int8 file was written")]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def show(report: Quantized, console: Console) -> None:
    """Print both models side by side, what int8 does to the outputs, the coverage and the verdict."""
    shown = Table(
        title=f"{report.model} → {METHODS[report.method]} for {report.target['name']}",
        title_justify="left",
        header_style="bold",
    )
    for name in ("", "float", METHODS[report.method], ""):
        shown.add_column(name, justify="right" if name else "left")
    for row in _rows(report):
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)
    for line in _lines(report):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print(Text(f"  {report.verdict.text}", f"bold {STYLES[report.verdict.kind]}"), soft_wrap=True)


def _rows(report: Quantized) -> list[tuple[str, str, str, str]]:
    one, other = report.float_, report.int8
    shrunk = one.size_bytes / other.size_bytes
    rows = [("size", table.size(one.size_bytes), table.size(other.size_bytes), f"{shrunk:.2f}× smaller")]
    if one.latency and other.latency and report.ratio:
        speed = f"{1 / report.ratio.value:.2f}× ({1 / report.ratio.high:.2f}–{1 / report.ratio.low:.2f})"
        rows.append(("p50 ms", table.interval(one.latency.p50_ms), table.interval(other.latency.p50_ms), speed))
        rows.append(("p90 ms", f"{one.latency.p90_ms.value:.3f}", f"{other.latency.p90_ms.value:.3f}", ""))
    if one.memory_peak_bytes and other.memory_peak_bytes:
        rows.append(("peak memory", table.size(one.memory_peak_bytes), table.size(other.memory_peak_bytes), ""))
    if found := report.accuracy:
        floor = "" if found.floor is None else f"at least {found.floor:g} was asked for"
        rows.append((found.name, f"{found.float_:g}" if found.float_ < EXACT_DB else "exact", f"{found.int8:g}", floor))
    for name, output in report.outputs.items():
        exact = "exact" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"
        same = "" if output.agreement is None else f"top-1 agrees {100 * output.agreement:.2f}%"
        rows.append((f"SQNR of {name}", "", exact, same))
    return rows


def _lines(report: Quantized) -> list[str]:
    which = "held-out samples" if report.held_out else "samples, which were calibrated on too"
    lines = [
        f"coverage: {report.coverage.text}",
        f"fidelity over {report.evaluated_samples} {which}, computed by {report.evaluated_on}",
    ]
    if report.placement:
        lines.append(f"placement: {report.placement.text}")
        lines += [f"  {row[0]}: {row[2]} of {row[1]}" for row in placed.rows(report.placement) if row[-1]]
    if report.observer and "tried" in report.observer:
        tried = ", ".join(f"{name} {db:.1f}" for name, db in report.observer["tried"].items())
        lines.append(f"ranges by {report.observer['name']}, the closest of {tried} dB on calibration samples")
    if report.weights:
        lines.append(report.weights.line())
    if report.proxy:
        lines.append(f"proxy: measured on this machine, which is not the device that {report.target['name']} is for")
    return [*lines, *report.warnings]
