"""The past runs of a baseline: a table, and a picture with their changes of level."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.gate.baselines import Baseline
from pipeline.gate.drift import Drift
from pipeline.gate.history import Past
from pipeline.report.widths import FORBIDDEN

SHOWN = 20  # lines of the table
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 880, 300, 70, 24, 84, 40  # pixels

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" \
viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="title summary">
<title id="title">{{ title }}: past runs</title>
<desc id="summary">{{ summary }}</desc>
<style>
  text { font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff }
  .title { font-size: 17px; font-weight: 600 }
  .muted { fill: #656d76 }
  .end { text-anchor: end }
  .frame { stroke: #d8dee4 }
  .run { fill: #0969da }
  .level { stroke: #1b7c83; stroke-width: 2 }
  .change { stroke: #d1242f; stroke-dasharray: 3 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .muted { fill: #9198a1 }
    .frame { stroke: #2a313c }
    .run { fill: #4493f8 }
    .level { stroke: #39c5cf }
    .change { stroke: #f85149 }
  }
</style>
<rect class="page" width="100%" height="100%"/>
<text class="title" x="24" y="38">{{ title }}: past runs</text>
<text class="muted" x="24" y="60">{{ summary }}</text>
{% for tick in ticks -%}
<path class="frame" d="M{{ left }} {{ tick.y }}H{{ width - right }}"/>\
<text class="muted end" x="{{ left - 8 }}" y="{{ tick.y + 4 }}">{{ tick.text }}</text>
{% endfor -%}
{% for change in changes -%}
<path class="change" d="M{{ change }} {{ top }}V{{ height - bottom }}"/>
{% endfor -%}
{% for level in levels -%}
<path class="level" d="M{{ level.x0 }} {{ level.y }}H{{ level.x1 }}"/>
{% endfor -%}
{% for run in runs -%}
<circle class="run" cx="{{ run.x }}" cy="{{ run.y }}" r="3.5"><title>{{ run.text }}</title></circle>
{% endfor -%}
<text class="muted" x="{{ left }}" y="{{ height - 14 }}">{{ first }}</text>\
<text class="muted end" x="{{ width - right }}" y="{{ height - 14 }}">{{ last }}</text>
</svg>
"""


@dataclass(frozen=True)
class _Plane:
    """From runs and values to pixels."""

    runs: int
    low: float
    high: float

    def x(self, index: float) -> float:
        """Of the run number `index`; halves lie between runs."""
        return round(LEFT + (index + 0.5) / max(1, self.runs) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Of a value; larger is higher."""
        return round(TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM), 1)


def show(baseline: Baseline, runs: Sequence[Past], drift: Drift, console: Console) -> None:
    """Print the baseline, its last runs and the levels they settled on."""
    version, run = baseline.version, baseline.run
    console.print(Text(f"{baseline.title}: {run.report.recipe} for {run.manifest.target_name}, saved {version.saved}"))
    console.print(Text(f"artifact: {version.artifact or run.model}"))
    table = Table("at", "event", "v", "commit", "p50 ms", "× v", "level", "outcome", header_style="bold")
    for past in runs[-SHOWN:]:
        table.add_row(*map(Text, _cells(past)))
    console.print(table)
    console.print(Text(summary(drift)))


def summary(drift: Drift) -> str:
    """What the series is, and its levels, in a line."""
    if not drift.series.values:
        return "no past runs that compare"
    unit = "× the first version's p50" if drift.series.kind == "level" else "ms p50, one fingerprint"
    levels = ", ".join(f"{value:.3f} ({_runs(stop - start)})" for start, stop, value in drift.levels)
    return f"{_runs(len(drift.series.values))}, {unit}; {'levels' if drift.changes else 'one level'}: {levels}"


def picture(name: str, drift: Drift) -> str:
    """The series as a standalone SVG: a dot per run, its levels, and where they change."""
    values, runs = drift.series.values or (1.0,), drift.series.runs
    margin = max(0.1 * (max(values) - min(values)), 0.01 * max(values))
    plane = _Plane(len(values), min(values) - margin, max(values) + margin)
    steps = [plane.low + share * (plane.high - plane.low) for share in (0.1, 0.5, 0.9)]
    # not HTML, but autoescape serves XML as well
    return (
        Environment(autoescape=True, keep_trailing_newline=True)
        .from_string(TEMPLATE)
        .render(
            {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
            title=_clean(name),
            summary=summary(drift),
            ticks=[{"y": plane.y(value), "text": f"{value:.3f}"} for value in steps],
            changes=[plane.x(change.index - 0.5) for change in drift.changes],
            levels=[{"x0": plane.x(a - 0.4), "x1": plane.x(b - 0.6), "y": plane.y(v)} for a, b, v in drift.levels],
            runs=[
                {"x": plane.x(i), "y": plane.y(value), "text": _clean(f"{past.at} {past.commit or ''} {value:.4f}")}
                for i, (past, value) in enumerate(zip(runs, drift.series.values, strict=True))
            ],
            first=_clean(runs[0].at[:10]) if runs else "",
            last=_clean(runs[-1].at[:10]) if runs else "",
        )
    )


def _cells(past: Past) -> tuple[str, ...]:
    return (
        past.at[:16],
        past.event,
        str(past.version),
        (past.commit or "")[:10],
        f"{past.p50_ms:.3f}" if past.p50_ms else "–",
        f"{past.ratio:.3f}" if past.ratio else "",
        f"{past.level:.3f}" if past.level else "",
        past.outcome or "",
    )


def _clean(text: str) -> str:
    return FORBIDDEN.sub("�", text)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
