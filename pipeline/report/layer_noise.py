"""A picture of what each layer's int8 costs: the noise it alone puts on the outputs, in dB below the signal."""

from dataclasses import dataclass

from jinja2 import Environment

from calibration.runs import decibels
from calibration.sensitivity import LayerCost, Sensitivity
from pipeline.report.widths import FORBIDDEN, short

WIDTH, ROW, MARGIN, TOP = 900, 18, 24, 84
NAMES, FIGURES, LETTERS = 300, 90, 42  # pixels of the names, of the figures; characters of a name
QUIET_DB = 80.0  # as good as exact: where a bar begins

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" \
viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="title summary">
<title id="title">{{ title }}: what int8 costs in every layer</title>
<desc id="summary">{{ summary }}</desc>
<style>
  text { font: 11px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff }
  .title { font-size: 17px; font-weight: 600 }
  .name { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .bar { fill: #0969da }
  .float { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .bar { fill: #4493f8 }
    .float { fill: #db6d28 }
  }
</style>
<rect class="page" width="100%" height="100%"/>
<text class="title" x="{{ margin }}" y="38">{{ title }}</text>
<text x="{{ margin }}" y="58">{{ summary }}</text>
{% for row in rows -%}
<g transform="translate(0 {{ row.y }})"><title>{{ row.hint }}</title>
<text class="name" x="{{ margin }}" y="12">{{ row.label }}</text>
<rect class="{{ row.kind }}" x="{{ start }}" y="2" width="{{ row.length }}" height="12"/>
<text x="{{ row.end }}" y="12">{{ row.figure }}</text>
</g>
{% endfor -%}
</svg>
"""


@dataclass(frozen=True)
class _Row:
    y: int
    label: str
    hint: str
    kind: str
    length: float
    end: float
    figure: str


def picture(found: Sensitivity, title: str, left: frozenset[str] = frozenset()) -> str:
    """Draw a bar per layer, longer for more noise; layers in `left` stayed in float and have another colour.

    Equal input gives equal text, and any text is safe as a name or title.
    """
    start = MARGIN + NAMES
    rows = [_row(i, cost, start, cost.layer.name in left) for i, cost in enumerate(found.layers)]
    whole = decibels(max(found.whole.values(), default=0.0))
    text = (
        Environment(autoescape=True, keep_trailing_newline=True)
        .from_string(TEMPLATE)
        .render(
            title=title,
            summary=f"SQNR of the outputs with one layer in int8, {found.samples} samples; all in int8: {whole:.1f} dB"
            + ("; orange: left in float" if left else ""),
            width=WIDTH,
            height=TOP + len(rows) * ROW + MARGIN,
            margin=MARGIN,
            start=start,
            rows=rows,
        )
    )
    return FORBIDDEN.sub("\ufffd", text)


def _row(number: int, cost: LayerCost, start: int, left: bool) -> _Row:
    db = decibels(cost.total)
    room = WIDTH - start - MARGIN - FIGURES
    length = round(room * min(max((QUIET_DB - db) / QUIET_DB, 0.0), 1.0), 1)
    name = cost.layer.name
    return _Row(
        y=TOP + number * ROW,
        label=short(name, LETTERS),
        hint=f"{name} ({', '.join(cost.layer.ops)}): {db:.1f} dB, {cost.layer.macs:,} multiply-accumulates",
        kind="float" if left else "bar",
        length=length,
        end=start + length + 6,
        figure="exact" if cost.total == 0 else f"{db:.1f} dB",
    )
