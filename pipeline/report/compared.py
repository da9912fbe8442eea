"""A comparison for people: a table in the terminal, and a picture of both distributions."""

from dataclasses import dataclass

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.comparing import Compared, Side
from pipeline.report.schema import Interval
from pipeline.report.table import interval, size
from pipeline.report.widths import FORBIDDEN, short
from targets.verdicts import Verdict

PICTURE, DATA = "comparison.svg", "comparison.json"
STYLES = {"faster": "green", "slower": "red", "same": "default", "unclear": "yellow"}
WIDTH, HEIGHT, MARGIN, TOP, LETTERS = 720, 200, 32, 92, 60  # pixels; characters of a name
BINS, SHOWN, BODY = 80, 0.99, 0.9  # shares of the samples: a long tail would squeeze all else

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" \
viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="title summary">
<title id="title">{{ a.name }} against {{ b.name }}</title>
<desc id="summary">{{ summary }}</desc>
<style>
  text { font: 11px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff }
  .title { font-size: 17px; font-weight: 600 }
  .muted { fill: #656d76; font-size: 10px }
  .end { text-anchor: end }
  .axis { stroke: #d8dee4 }
  .a { fill: #0969da; stroke: #0969da }
  .b { fill: #bc4c00; stroke: #bc4c00 }
  .area { fill-opacity: 0.25; stroke-width: 1.5 }
  .median { stroke-dasharray: 4 3; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .muted { fill: #9198a1 }
    .axis { stroke: #2a313c }
    .a { fill: #4493f8; stroke: #4493f8 }
    .b { fill: #f0883e; stroke: #f0883e }
  }
</style>
<rect class="page" width="100%" height="100%"/>
<text class="title" x="{{ margin }}" y="34">{{ summary }}</text>
{% for side in (a, b) -%}
<circle class="{{ side.key }}" cx="{{ margin + 5 }}" cy="{{ 48 + 16 * loop.index0 }}" r="4"/>
<text x="{{ margin + 16 }}" y="{{ 52 + 16 * loop.index0 }}">{{ side.label }}</text>
{% endfor -%}
<g transform="translate({{ margin }} {{ top }})">
{% for side in (a, b) -%}
<path class="{{ side.key }} area" d="{{ side.path }}"/>
<path class="{{ side.key }} median" d="M{{ side.median }} 0V{{ plot_height }}"/>
{% endfor -%}
<path class="axis" d="M0 {{ plot_height }}h{{ plot_width }}"/>
<text class="muted" y="{{ plot_height + 16 }}">{{ low }} ms</text>\
<text class="muted end" x="{{ plot_width }}" y="{{ plot_height + 16 }}">{{ high }}</text>
</g>
</svg>
"""


@dataclass(frozen=True)
class _Drawn:
    key: str
    name: str
    label: str
    path: str
    median: float


def show(found: Compared, console: Console) -> None:
    """Print both side by side, the ratio at each quantile with its verdict, and what is doubtful."""
    table = Table(
        "", f"A  {short(found.a.name, 36)}", f"B  {short(found.b.name, 36)}", "A / B", "", header_style="bold"
    )
    for verdict in found.verdicts:
        ratio = verdict.ratio
        cells = [Text(_time(side, verdict.q)) for side in (found.a, found.b)]
        told = Text(verdict.text, STYLES[verdict.kind])
        table.add_row(_label(found, verdict), *cells, f"{ratio.value:.3f}  ({ratio.low:.3f}–{ratio.high:.3f})", told)
    table.add_row("size", size(found.a.size_bytes), size(found.b.size_bytes), f"{_share(found):.3f}", "")
    memory = [size(side.measured.memory_peak_bytes) for side in (found.a, found.b)]
    table.add_row("peak memory", *memory, "", "")
    table.add_row("target", found.a.target, found.b.target, "", "")
    console.print(table)
    console.print(Text(headline(found), f"bold {STYLES[found.verdict.kind]}"))
    verdict = found.verdict
    least = f"a slowdown of {100 * verdict.detectable:.1f}% or more would be found in 4 of 5 such runs"
    console.print(Text(f"  {verdict.units} units of {_calls(found)} calls; {least}", style="dim"))
    for key, side in (("A", found.a), ("B", found.b)):
        if side.proxy:
            console.print(Text(f"  {key}: proxy, this is not the device that {side.target} is for", style="dim"))
    for line in found.warnings:
        console.print(Text(f"  {line}", style="yellow"))


def headline(found: Compared) -> str:
    """The verdict in one sentence."""
    verdict = found.verdict
    if verdict.kind == "unclear":
        return f"Median: {verdict.text}"
    joint = {"faster": "than", "slower": "than", "same": "as"}[verdict.kind]
    kind, _, rest = verdict.text.partition(" ")
    return f"A is {'the same' if kind == 'same' else kind} {joint} B {rest}"


def picture(found: Compared) -> str:
    """Draw both distributions on one scale; equal input gives equal text, and any text is safe as a name."""
    samples = [_samples_ms(side) for side in (found.a, found.b)]
    low = min(float(times.min()) for times in samples)
    high = max(min(float(np.quantile(times, SHOWN)), 2 * float(np.quantile(times, BODY))) for times in samples)
    high = high if high > low else low * 1.01 + 1e-9
    beyond = float(np.mean(np.concatenate(samples) > high))
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(times, edges)[0] / len(times) for times in samples]
    most = max(float(shares.max()) for shares in counts)
    drawn = {
        key: _drawn(key, side, shares / most, (low, high))
        for key, side, shares in zip("ab", (found.a, found.b), counts, strict=True)
    }
    text = (
        Environment(autoescape=True, keep_trailing_newline=True)
        .from_string(TEMPLATE)
        .render(
            **drawn,
            summary=headline(found),
            width=WIDTH,
            height=TOP + HEIGHT + MARGIN,
            margin=MARGIN,
            top=TOP,
            plot_width=WIDTH - 2 * MARGIN,
            plot_height=HEIGHT,
            low=f"{low:.3f}",
            high=f"{high:.3f} ms; {beyond:.1%} of the calls took longer",
        )
    )
    return FORBIDDEN.sub("\ufffd", text)


def _drawn(key: str, side: Side, heights: NDArray[np.float64], scale: tuple[float, float]) -> _Drawn:
    step = (WIDTH - 2 * MARGIN) / BINS
    steps = " ".join(f"V{HEIGHT * (1 - height):.1f}h{step:.2f}" for height in heights.tolist())
    median_ms = side.time_ns(0.5).value / 1e6
    low, high = scale
    return _Drawn(
        key=key,
        name=side.name,
        label=f"{key.upper()}  {short(side.name, LETTERS)} ({side.target}): median {median_ms:.3f} ms",
        path=f"M0 {HEIGHT}{steps}V{HEIGHT}Z",
        median=round((WIDTH - 2 * MARGIN) * min(1.0, (median_ms - low) / (high - low)), 1),
    )


def _samples_ms(side: Side) -> NDArray[np.float64]:
    return np.array([t for launch in side.measured.compared_ns for block in launch for t in block], np.float64) / 1e6


def _time(side: Side, q: float) -> str:
    found = side.time_ns(q)
    text = interval(Interval(value=found.value / 1e6, low=found.low / 1e6, high=found.high / 1e6))
    return text if found.level > 0.9 else f"{text} ({found.level:.0%})"


def _label(found: Compared, verdict: Verdict) -> str:
    return f"p{100 * verdict.q:g} ms" if found.mode == "latency" else "ms per call"


def _share(found: Compared) -> float:
    return found.a.size_bytes / max(1, found.b.size_bytes)


def _calls(found: Compared) -> int:
    return sum(map(len, found.a.measured.blocks_ns)) // found.verdict.units
