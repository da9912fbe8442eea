import io

from rich.console import Console

from pipeline.report.cuts import lines, show
from pipeline.report.layers import Cut, Layer

LAYERS = (
    Layer("stem[red]", 64, 40, 1_000_000, 625_000),
    Layer("product", 0, 0, 3000, 1500),
    Layer("kept", 10, 10, 500, 500),
)
CUT = Cut(LAYERS, 5000, 2500)
FIGURES = {
    "share_of": "macs",
    "requested_ratio": 0.4,
    "achieved_ratio": 0.375,
    "proof_max_rel_error": 2.5e-7,
    "frozen": {"softmax": [f"w{i}" for i in range(8)]},
}


def told(width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    show(CUT, FIGURES, console)
    return console.export_text()


def test_the_table_has_what_changed_and_the_totals() -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told(100).splitlines() if "│" in line]
    assert rows == [
        ["stem[red]", "64 → 40", "1.00M → 625.00k", "−37.5%"],
        ["product", "", "3.00k → 1.50k", "−50.0%"],
        ["all 3 layers", "", "1.00M → 627.00k", "−37.5%"],
        ["parameters", "", "5.00k → 2.50k", "−50.0%"],
    ]


def test_a_narrow_terminal_folds_names_and_cuts_no_figure() -> None:
    assert "1.00M → 625.00k" in told(48)


def test_the_lines_say_what_was_asked_reached_proved_and_kept() -> None:
    assert list(lines(CUT, FIGURES)) == [
        "macs: 40.0% asked for, 37.5% removed",
        "proof: differs from the masked original by 2.5e-07 of the largest output",
        "unchanged: kept",
        "frozen by softmax: w0, w1, w2, w3, w4, w5 and 2 more",
    ]
