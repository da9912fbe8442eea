"""The report as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment

from pipeline.report import placed, ranks, table, widths
from pipeline.report.cuts import pruned
from pipeline.report.schema import Report

TEMPLATE = """\
# {{ report.recipe }} for {{ report.target }}

{{ line(header) }}
{{ line(alignment) }}
{% for row in rows -%}
{{ line(row) }}
{% endfor %}
Shipped: the result of **{{ report.shipped }}**, in `model/`. Accuracy is over the whole test set, run through the \
artifact itself; the budget of {{ "%g" | format(report.budget.max_drop) }} points is decided on the validation split. \
p50 and p90 are medians and 90th percentiles of single calls; × source is the median ratio of neighbouring calls \
from interleaved runs.

{% for note in notes -%}
- {{ note }}
{% endfor %}
{%- if pruned %}- {{ pruned }}: every layer before and after in [{{ picture }}]({{ picture }})
{% endif %}
{%- if low_rank %}
## Low rank

{% for row in low_rank.table -%}
{{ line(row) }}
{% endfor %}
{{ low_rank.stage }}: ranks by {{ low_rank.rule }}; the error is that of the layer's weights, relative to their norm.

{% for text in low_rank.lines -%}
- {{ text }}
{% endfor %}
{%- endif %}
{%- if placed %}
## Placement

{{ placed.stage }}: {{ placed.text }}. Every comparison was interleaved, in fresh processes; a change is kept where a \
second one, on top of what had been kept by then, says that it is faster.

{% for row in placed.table -%}
{{ line(row) }}
{% endfor %}
{%- endif %}
{%- if device %}
Measured on {{ device.fingerprint.cpu }}, {{ device.fingerprint.cores }} cores, features \
{{ device.fingerprint.features | join(", ") or "none" }}, governor {{ device.fingerprint.governor }}\
{% if device.fingerprint.power_mode %}, power mode {{ device.fingerprint.power_mode }}{% endif %}, \
{% if device.fingerprint.emulator %}emulated by {{ device.fingerprint.emulator }}, {% endif %}\
{{ device.fingerprint.system }}; fingerprint `{{ device.digest[:16] }}`.
{% endif %}
Versions: {{ versions }}. Created {{ report.created }}{% if report.git_commit %} at commit \
`{{ report.git_commit[:12] }}`{% endif %}.
"""


def markdown(report: Report) -> str:
    """Render the report; pipes and line breaks in values cannot break the table."""
    # not HTML: autoescape would turn × and < in prose into entities that terminals show
    environment = Environment(autoescape=False, keep_trailing_newline=True)  # noqa: S701
    return environment.from_string(TEMPLATE).render(
        report=report,
        header=table.HEADER,
        alignment=table.alignment(),
        rows=table.rows(report),
        notes=table.notes(report),
        device=next((row.device for row in reversed(report.stages) if row.device), None),
        pruned=found[0] if (found := pruned(report)) else "",
        picture=widths.FILE,
        low_rank=_low_rank(report),
        placed=_placed(report),
        line=_line,
        versions=", ".join(f"{name} {version}" for name, version in sorted(report.versions.items())),
    )


def _low_rank(report: Report) -> Mapping[str, Any] | None:
    """Return what the report tells of a stage that factorised layers."""
    found = ranks.factorised(report)
    if found is None:
        return None
    stage, figures = found
    alignment = (":--", *("--:",) * (len(ranks.HEADER) - 1))
    return {
        "stage": stage,
        "rule": figures["ranks"],
        "table": (ranks.HEADER, alignment, *ranks.rows(figures), ranks.total(figures)),
        "lines": tuple(ranks.lines(figures)),
    }


def _placed(report: Report) -> Mapping[str, Any] | None:
    """Return what the report tells of a stage that measured where int8 pays."""
    found = placed.measured(report)
    if found is None:
        return None
    stage, placement = found
    table = (placed.HEADER, (":--", ":--", "--:", ":--", ":--"), *placed.rows(placement))
    return {"stage": stage, "text": placement.text, "table": table}


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(v.replace("|", "\\|").replace("\n", " ") for v in values) + " |"
