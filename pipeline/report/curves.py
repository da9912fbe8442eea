"""A picture of a sensitivity analysis: for every group, what the network scores against the share that is gone."""

from dataclasses import dataclass

from jinja2 import Environment

from pipeline.pruning.curves import Curve, Sensitivity
from pipeline.report.widths import FORBIDDEN, short

FILE = "sensitivity.svg"

COLUMNS, PANEL, HEIGHT, LETTERS = 4, 210, 132, 28  # panels per row; pixels of one; characters of a name
MARGIN, TOP = 24, 84
PLOT_WIDTH, PLOT_HEIGHT, BELOW = 168, 74, 26  # pixels of a plot, and where it begins in its panel

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" \
viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="title summary">
<title id="title">{{ title }}: sensitivity of every group</title>
<desc id="summary">{{ summary }}</desc>
<style>
  text { font: 11px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff }
  .title { font-size: 17px; font-weight: 600 }
  .name { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .muted { fill: #656d76; font-size: 9px }
  .end { text-anchor: end }
  .frame { fill: none; stroke: #d8dee4 }
  .whole { stroke: #818b98; stroke-dasharray: 3 2 }
  .curve { fill: none; stroke: #0969da; stroke-width: 1.5 }
  .point { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .muted { fill: #9198a1 }
    .frame { stroke: #2a313c }
    .curve { stroke: #4493f8 }
    .point { fill: #4493f8 }
  }
</style>
<rect class="page" width="100%" height="100%"/>
<text class="title" x="{{ margin }}" y="38">{{ title }}</text>
<text x="{{ margin }}" y="58">{{ summary }}</text>
{% for panel in panels -%}
<g transform="translate({{ panel.x }} {{ panel.y }})"><title>{{ panel.hint }}</title>
<text class="name" y="14">{{ panel.label }}</text>
<rect class="frame" y="{{ below }}" width="{{ plot_width }}" height="{{ plot_height }}"/>
<path class="whole" d="M0 {{ panel.whole }}h{{ plot_width }}"/>
<polyline class="curve" points="{{ panel.points | join(" ") }}"/>
{% for point in panel.points -%}
<circle class="point" cx="{{ point.partition(",")[0] }}" cy="{{ point.partition(",")[2] }}" r="2"/>
{% endfor -%}
<text class="muted" y="{{ below + plot_height + 11 }}">{{ low }}–{{ high }}</text>\
<text class="muted end" x="{{ plot_width }}" y="{{ below + plot_height + 11 }}">100% gone</text>
</g>
{% endfor -%}
</svg>
"""


@dataclass(frozen=True)
class _Panel:
    x: int
    y: int
    label: str
    hint: str
    whole: float
    points: tuple[str, ...]


def picture(found: Sensitivity, title: str) -> str:
    """Draw every group's curve on one scale; equal input gives equal text, and any text is safe as a name."""
    values = [found.baseline, *(v for curve in found.curves for v in curve.values)]
    low, high = min(values), max(values)
    rows = -(-len(found.curves) // COLUMNS)
    text = (
        Environment(autoescape=True, keep_trailing_newline=True)
        .from_string(TEMPLATE)
        .render(
            title=title,
            summary=f"{found.metric} {found.baseline:.4f} of {found.samples} samples whole (dashed); each curve: "
            f"without a share of one group, as {found.criterion} takes it",
            width=2 * MARGIN + COLUMNS * PANEL,
            height=TOP + rows * HEIGHT + MARGIN,
            margin=MARGIN,
            below=BELOW,
            plot_width=PLOT_WIDTH,
            plot_height=PLOT_HEIGHT,
            low=f"{low:.3f}",
            high=f"{high:.3f}",
            panels=[_panel(i, curve, found.baseline, (low, high)) for i, curve in enumerate(found.curves)],
        )
    )
    return FORBIDDEN.sub("\ufffd", text)


def _panel(number: int, curve: Curve, baseline: float, scale: tuple[float, float]) -> _Panel:
    def height(value: float) -> float:
        low, high = scale
        return round(BELOW + PLOT_HEIGHT * (high - value) / (high - low or 1.0), 1)

    pairs = list(zip((0.0, *curve.ratios), (baseline, *curve.values), strict=True))
    name = curve.group
    return _Panel(
        x=MARGIN + number % COLUMNS * PANEL,
        y=TOP + number // COLUMNS * HEIGHT,
        label=short(name, LETTERS),
        hint=f"{name}: " + ", ".join(f"{value:.4f} without {ratio:.0%}" for ratio, value in pairs),
        whole=height(baseline),
        points=tuple(f"{round(PLOT_WIDTH * ratio, 1)},{height(value)}" for ratio, value in pairs),
    )
