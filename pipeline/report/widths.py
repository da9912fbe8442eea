"""A picture of what pruning took: every layer's width and work before and after, as a standalone SVG."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment

from pipeline.report.layers import Cut, Layer, change, share
from pipeline.report.sections import Section, sections
from pipeline.report.table import count

FILE = "widths.svg"

WIDTH, MARGIN, TOP = 880, 24, 118  # pixels
ROW, HEADER, GAP = 18, 22, 8
INDENT, LETTER, LONGEST = 12, 6.65, 34  # of labels: pixels, pixels per character, characters
WIDTH_TEXT, MACS_TEXT = 92, 128  # pixels that figures take beside their bars
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0, even escaped

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" \
viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="title summary">
<title id="title">{{ title }}: widths before and after pruning</title>
<desc id="summary">{{ totals | join("; ") }}</desc>
<style>
  text { font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff }
  .title { font-size: 17px; font-weight: 600 }
  .name { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .section { font-weight: 600 }
  .figure { font-size: 11px; font-variant-numeric: tabular-nums }
  .muted { fill: #656d76 }
  .end { text-anchor: end }
  .rule { stroke: #d8dee4 }
  .before { fill: #818b981f; stroke: #818b98 }
  .width { fill: #0969da }
  .macs { fill: #1b7c83 }
  .kept { fill: #c4ccd4 }
  .gone { stroke: #d1242f; stroke-dasharray: 3 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117 }
    .muted { fill: #9198a1 }
    .rule { stroke: #2a313c }
    .before { fill: #9198a11f; stroke: #7d8590 }
    .width { fill: #4493f8 }
    .macs { fill: #39c5cf }
    .kept { fill: #3d444d }
    .gone { stroke: #f85149 }
  }
</style>
<rect class="page" width="100%" height="100%"/>
<text class="title" x="{{ margin }}" y="38">{{ title }}</text>
{% for total in totals -%}
<text class="muted" x="{{ margin }}" y="{{ 58 + 18 * loop.index0 }}">{{ total }}</text>
{% endfor -%}
<g transform="translate({{ width - margin - 214 }} 28)">
<rect class="before" x="0.5" y="0.5" width="22" height="10"/><text class="muted" x="29" y="10">before</text>
<rect class="width" x="78" width="11" height="11"/><rect class="macs" x="89" width="11" height="11"/>\
<text class="muted" x="107" y="10">after</text>
<rect class="kept" x="146" width="22" height="11"/><text class="muted" x="175" y="10">not cut</text>
</g>
<text class="muted" x="{{ margin }}" y="{{ top - 12 }}">layer</text>
<text class="muted" x="{{ lanes[0].start }}" y="{{ top - 12 }}">output channels</text>
<text class="muted" x="{{ lanes[1].start }}" y="{{ top - 12 }}">multiply-accumulates</text>
<path class="rule" d="M{{ margin }} {{ top - 4.5 }}H{{ width - margin }}"/>
{% for mark in headers -%}
<text class="name section" x="{{ margin }}" y="{{ mark.y + 15 }}">{{ mark.text }}</text>\
<text class="figure muted end" x="{{ width - margin }}" y="{{ mark.y + 15 }}">{{ mark.figure }}</text>
{% endfor -%}
{% for row in rows -%}
<g transform="translate(0 {{ row.y }})"><title>{{ row.hint }}</title>
<text class="name{{ "" if row.changed else " muted" }}" x="{{ row.x }}" y="13">{{ row.label }}</text>
{% for bar in row.bars -%}
<rect class="before{{ "" if bar.after else " gone" }}" x="{{ bar.x }}" y="3.5" width="{{ bar.before }}" height="10"/>\
{% if bar.after %}<rect class="{{ bar.kind }}" x="{{ bar.filled_x }}" y="3" width="{{ bar.after }}" height="11"/>\
{% endif %}<text class="figure{{ " muted" if bar.kind == "kept" }}" x="{{ bar.text_x }}" y="13">{{ bar.text }}</text>
{% endfor -%}
</g>
{% endfor -%}
</svg>
"""


@dataclass(frozen=True)
class _Lane:
    """A column of bars: where it is, what its longest bar stands for, where its figures begin."""

    kind: str
    start: int
    end: int
    largest: int
    centred: bool

    def bar(self, before: int, after: int, text: str) -> "_Bar":
        """Place a pair of bars; what is not nothing is at least a pixel wide."""
        outline, filled = (self._length(value) for value in (before, after))
        x = self.start + ((self.end - self.start - outline) / 2 if self.centred else 0)
        filled_x = x + ((outline - filled) / 2 if self.centred else 0)
        edge = max(outline - 1, 0.5)  # the stroke lies half outside
        kind = "kept" if before == after else self.kind
        return _Bar(kind, _px(x + 0.5), _px(edge), _px(filled_x), _px(filled), self.end + 10, text)

    def _length(self, value: int) -> float:
        return max(1.0, (self.end - self.start) * value / self.largest) if value else 0.0


@dataclass(frozen=True)
class _Bar:
    kind: str
    x: float | int
    before: float | int
    filled_x: float | int
    after: float | int
    text_x: int
    text: str


@dataclass(frozen=True)
class _Row:
    y: int
    x: int
    changed: bool
    label: str
    hint: str
    bars: tuple[_Bar, ...]


@dataclass(frozen=True)
class _Header:
    y: int
    text: str
    figure: str


def picture(cut: Cut, title: str) -> str:
    """Draw a model's layers; equal input gives equal text.

    Widths are centred, so that the network's silhouette shows: even, or an hourglass. Colours follow the
    reader's light or dark scheme. Any text is safe as a name or title.
    """
    grouped = sections(cut.layers)
    lanes = _lanes(cut, max((len(_label(s, layer)) for s in grouped for layer in s.layers), default=0))
    headers, rows, bottom = _laid_out(grouped, lanes)
    environment = Environment(autoescape=True, keep_trailing_newline=True)
    text = environment.from_string(TEMPLATE).render(
        title=title,
        totals=(_total("multiply-accumulates", cut.macs), _total("parameters", cut.params)),
        width=WIDTH,
        height=bottom + MARGIN,
        margin=MARGIN,
        top=TOP,
        lanes=lanes,
        headers=headers,
        rows=rows,
    )
    return FORBIDDEN.sub("\ufffd", text)


def _lanes(cut: Cut, letters: int) -> tuple[_Lane, _Lane]:
    """Share out what names and figures leave of the page's width."""
    start = MARGIN + INDENT + max(80, round(letters * LETTER)) + 12
    free = WIDTH - MARGIN - start - WIDTH_TEXT - MACS_TEXT
    middle = start + free * 3 // 5
    widest = max((max(layer.width_before, layer.width_after) for layer in cut.layers), default=0)
    heaviest = max((max(layer.macs_before, layer.macs_after) for layer in cut.layers), default=0)
    return (
        _Lane("width", start, middle, max(widest, 1), centred=True),
        _Lane("macs", middle + WIDTH_TEXT, WIDTH - MARGIN - MACS_TEXT, max(heaviest, 1), centred=False),
    )


def _laid_out(grouped: Sequence[Section], lanes: tuple[_Lane, _Lane]) -> tuple[list[_Header], list[_Row], int]:
    """Place sections below each other; return their headings, their rows and where they end."""
    headers: list[_Header] = []
    rows: list[_Row] = []
    y = TOP
    several = before = False
    for section in grouped:
        before, several = several, len(section.layers) > 1
        y += GAP if rows and (several or before) else 0  # lone layers stand close together
        if several:
            headers.append(_Header(y, short(section.prefix), share(*section.macs)))
            y += HEADER
        for layer in section.layers:
            rows.append(_row(layer, _label(section, layer), (MARGIN + INDENT * several, y), lanes))
            y += ROW
    return headers, rows, y


def _label(section: Section, layer: Layer) -> str:
    return short(section.label(layer) if len(section.layers) > 1 else layer.name)


def short(name: str, letters: int = LONGEST) -> str:
    """Leave out the middle of a name of more letters."""
    half = letters // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[1 - half :]}"


def _row(layer: Layer, label: str, corner: tuple[int, int], lanes: tuple[_Lane, _Lane]) -> _Row:
    width, macs = (layer.width_before, layer.width_after), (layer.macs_before, layer.macs_after)
    bars = (lanes[0].bar(*width, change(*width)),) if any(width) else ()
    hint = f"{layer.name}: width {change(*width)}, multiply-accumulates {change(*macs, '{:,}'.format)}"
    return _Row(
        x=corner[0],
        y=corner[1],
        changed=layer.changed,
        label=label,
        hint=hint,
        bars=(*bars, lanes[1].bar(*macs, change(*macs, count))),
    )


def _total(name: str, values: tuple[int, int]) -> str:
    return f"{name} {change(*values, count)} ({share(*values)})"


def _px(value: float) -> float | int:
    """Round to a tenth of a pixel, without a trailing zero."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded
