"""The report as rows of text: one way of writing every figure, for the terminal and for Markdown."""

from collections.abc import Sequence

from pipeline.report.schema import Interval, Report, StageReport

HEADER = ("stage", "size", "params", "MACs", "top-1", "Δ", "p50 ms", "p90 ms", "× source", "verdict")
RIGHT = frozenset(HEADER[1:-1])


def rows(report: Report) -> list[tuple[str, ...]]:
    """One row per stage, as wide as HEADER."""
    return [cells(row, report.stages[0]) for row in report.stages]


def cells(row: StageReport, source: StageReport) -> tuple[str, ...]:
    """The figures of a stage beside those of the source."""
    accuracy, reference = primary(row), primary(source)
    latency = row.latency
    absent = "–" if row.status != "no device" else "no device"
    return (
        row.stage,
        size(row.size_bytes),
        count(row.params),
        count(row.macs),
        f"{100 * accuracy.value:.2f}%" if accuracy else absent,
        f"{100 * (accuracy.value - reference.value):+.2f}" if accuracy and reference else "",
        interval(latency.p50_ms) if latency else absent,
        f"{latency.p90_ms.value:.3f}" if latency else absent,
        f"{row.speedup.value:.2f}" if row.speedup else "1.00" if row.verdict.kind == "reference" and latency else "",
        row.verdict.text,
    )


def primary(row: StageReport) -> Interval | None:
    """The metric that the budget is about, on the test split."""
    return next((m for name, m in row.metrics.items() if not name.startswith("validation_")), None)


def size(count_bytes: int) -> str:
    """Bytes in the largest decimal unit that fits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_bytes >= factor:
            return f"{count_bytes / factor:.2f} {unit}"
    return f"{count_bytes} B"


def count(number: int | None) -> str:
    """A count of parameters or multiply-adds."""
    if number is None:
        return "–"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f}{unit}"
    return str(number)


def interval(value: Interval) -> str:
    """A time and half the width of its interval, or the larger half where it is lopsided."""
    half = max(value.high - value.value, value.value - value.low)
    return f"{value.value:.3f} ±{half:.3f}"


def notes(report: Report) -> list[str]:
    """What a reader must know besides the table, a line each."""
    lines = []
    if any(row.proxy for row in report.stages):
        lines.append(f"proxy: measured on this machine, which is not the device that {report.target} is for")
    if report.not_run:
        lines.append(f"{report.target}: {report.not_run}; size is all that is known")
    for row in report.stages:
        if row.precision.ran and row.same_as is None:
            ran = ", ".join(f"{n} × {kind}" for kind, n in sorted(row.precision.ran.items()))
            lines.append(f"{row.stage}: asked for {row.precision.requested}, kernels that ran: {ran}")
        if row.coverage and row.same_as is None:
            lines.append(f"{row.stage}: {row.coverage.text}")
        if row.placement:
            lines.append(f"{row.stage}: {row.placement.text}")
        if row.board and row.board.energy and row.same_as is None:
            lines.append(f"{row.stage}: {row.board.energy.line()}")
        lines += [f"{row.stage}: {warning}" for warning in row.warnings if row.same_as is None]
    return lines


def alignment(header: Sequence[str] = HEADER) -> list[str]:
    """Markdown's alignment row."""
    return ["--:" if name in RIGHT else ":--" for name in header]
