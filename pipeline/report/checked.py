"""A check as a table: in the terminal, and as Markdown for the summary of a CI step."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.gate.schema import Check, Judgement
from pipeline.report.table import size

HEADER = ("metric", "baseline", "run", "change (95%)", "tolerance", "detectable", "outcome")
ROOMY = 110  # columns of a terminal that fits all of it
SPARED = frozenset({"baseline", "detectable"})  # columns that a narrow one does without
STYLES = {"pass": "green", "regression": "red", "cannot tell": "yellow", "not judged": "dim"}
SAID = {
    "pass": "pass: no regression",
    "regression": "regression",
    "cannot tell": "cannot tell",
}


def cells(judgement: Judgement) -> tuple[str, ...]:
    """A metric's figures as text, as wide as HEADER."""
    unit = judgement.unit_of_change
    return (
        judgement.metric,
        _figure(judgement.baseline, judgement.unit),
        _figure(judgement.run, judgement.unit),
        judgement.text,
        "" if judgement.tolerance is None else f"{judgement.tolerance:g}{unit}",
        "" if judgement.detectable is None else f"{judgement.detectable:.1f}{unit}",
        judgement.outcome,
    )


def title(check: Check) -> str:
    """What was compared, and how."""
    return f"{check.run} against {check.baseline} v{check.version}: {SAID[check.outcome]} ({check.how})"


def show(check: Check, console: Console) -> None:
    """Print the table and the notes."""
    shown = Table(title=Text(title(check)), title_justify="left", header_style="bold")
    taken = [i for i, name in enumerate(HEADER) if console.width >= ROOMY or name not in SPARED]
    for name in (HEADER[i] for i in taken):
        shown.add_column(name, justify="right" if name in HEADER[1:3] else "left", no_wrap=name != HEADER[3])
    for judgement in check.judgements:
        texts = [Text(text) for text in cells(judgement)]
        texts[-1].stylize(STYLES[judgement.outcome])
        shown.add_row(*(texts[i] for i in taken))
    console.print(shown)
    reach = ", ".join(f"{j.metric} {j.reach}" for j in check.judgements if j.reach)
    if reach and console.width < ROOMY:
        console.print(Text(f"  detectable 95 times of 100: {reach}"))
    for note in check.notes:
        console.print(Text(f"  {note}", style="dim" if check.outcome == "pass" else "yellow"))


def markdown(check: Check) -> str:
    """The same for `$GITHUB_STEP_SUMMARY`; pipes, line breaks and HTML in values cannot break it."""
    lines = [f"### {_plain(title(check))}", "", _line(HEADER), _line((":--", "--:", "--:", ":--", "--:", "--:", ":--"))]
    lines += [_line(cells(judgement)) for judgement in check.judgements]
    lines += ["", *(f"- {_plain(note)}" for note in check.notes)]
    return "\n".join(lines) + "\n"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return size(round(value)) if unit == "bytes" else f"{value:.4g} {unit}"


def _line(values: tuple[str, ...]) -> str:
    return "| " + " | ".join(_plain(value) for value in values) + " |"


def _plain(text: str) -> str:
    text = " ".join(text.split())
    for special, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|")):
        text = text.replace(special, safe)
    return text
