"""What a check writes: read back by its readers, whatever names and texts are in it."""

from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gate_runs import report, row, write_report
from rich.console import Console
from test_pipeline_gate_drift import noisy, past

from pipeline.gate.baselines import Baselines
from pipeline.gate.drift import drift_of
from pipeline.gate.github import annotations, command
from pipeline.gate.junit import junit
from pipeline.gate.runs import load
from pipeline.gate.schema import Check, Judgement
from pipeline.report import past as pasts
from pipeline.report.checked import HEADER, markdown, show

NASTY = "a|b <script>&\n::error::x% \x00]]> “–”, c:d"


def check(*outcomes: str, outcome: str = "regression", text: str = "+5.0%", **changes: object) -> Check:
    metrics = ("p50", "p90", "size", "accuracy")
    found = tuple(
        Judgement(metric=m, outcome=o, baseline=1.0, run=1.05, unit="ms", change=5.0, tolerance=2.0, text=text)  # type: ignore[arg-type]
        for m, o in zip(metrics, outcomes, strict=False)
    )
    fields = {"created": "2026-01-02T03:04:05+00:00", "run": "run", "baseline": "main", "version": 3}
    told = {"outcome": outcome, "how": "interleaved", "device": {"cpu": "x"}, "judgements": found}
    return Check.model_validate({**fields, **told, **changes})


def test_junit_is_read_back() -> None:
    root = ElementTree.fromstring(junit(check("regression", "cannot tell", "pass", "not judged")))  # noqa: S314 - ours
    (suite,) = root.findall("testsuite")
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "0", "skipped": "2"}
    cases = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
    assert cases == {"p50": ["failure"], "p90": ["skipped"], "size": ["system-out"], "accuracy": ["skipped"]}
    assert suite.get("timestamp") == "2026-01-02T03:04:05"


def test_what_cannot_be_told_is_an_error_where_it_decides() -> None:
    told = ElementTree.fromstring(junit(check("cannot tell", "pass", outcome="cannot tell")))  # noqa: S314 - ours
    (suite,) = told.findall("testsuite")
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")


def test_no_text_breaks_the_xml() -> None:
    text = junit(check("regression", "pass", text=NASTY, run=NASTY, notes=(NASTY,)))
    (failure,) = ElementTree.fromstring(text).iter("failure")  # noqa: S314 - ours
    assert "<script>&" in str(failure.get("message"))


def test_annotations_are_one_line_each_and_cannot_begin_another() -> None:
    found = annotations(check("regression", "cannot tell", "pass", text=NASTY, run="r\r\n::warning::y"))
    assert [line.split(" ", 1)[0] for line in found] == ["::error", "::warning"]
    for line in found:
        assert "\n" not in line
        assert "\r" not in line
    assert command("error", "a:b,c", "50%\n::x") == "::error title=a%3Ab%2Cc::50%25%0A::x"


@pytest.mark.parametrize(
    ("outcome", "metrics", "kinds"),
    [
        ("pass", ("pass", "pass"), ["::notice"]),
        ("pass", ("pass", "cannot tell"), ["::warning"]),
        ("cannot tell", ("cannot tell", "pass"), ["::warning", "::error"]),
        ("regression", ("regression", "regression"), ["::error", "::error"]),
    ],
)
def test_every_outcome_has_its_annotation(outcome: str, metrics: tuple[str, ...], kinds: list[str]) -> None:
    assert [line.split(" ", 1)[0] for line in annotations(check(*metrics, outcome=outcome))] == kinds


def test_markdown_keeps_its_table_and_shows_no_html() -> None:
    lines = markdown(check("regression", "pass", text=NASTY, run=NASTY, notes=(NASTY,))).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 4
    assert {line.replace("\\|", "").count("|") for line in rows} == {len(HEADER) + 1}
    assert not any("<script" in line for line in lines)


def test_what_could_have_been_found_is_said_everywhere() -> None:
    p50 = Judgement(metric="p50", outcome="regression", tolerance=2.0, detectable=3.25, text="+5.0%")
    size = Judgement(metric="size", outcome="pass", tolerance=1.0, detectable=1.0, text="+0.00%")
    found = check("regression", judgements=(p50, size))
    wide, narrow = StringIO(), StringIO()
    show(found, Console(file=wide, width=200))
    show(found, Console(file=narrow, width=80))
    assert "3.2%" in wide.getvalue()
    assert "detectable 95 times of 100: p50 3.2%" in narrow.getvalue()
    assert "+5.0%; detectable: 3.2%" in junit(found)
    assert annotations(found)[0].endswith("+5.0%25; detectable: 3.2%25")


@pytest.mark.parametrize("width", [60, 200])
def test_the_terminal_shows_every_metric(width: int) -> None:
    out = StringIO()
    show(check("regression", "cannot tell", text="+5.0% [red](1 … 9)"), Console(file=out, width=width))
    assert "[red]" in out.getvalue().replace("\n", "")
    assert all(word in out.getvalue() for word in ("p50", "p90", "regression", "cannot tell"))


def test_exit_codes_and_json() -> None:
    codes = {o: check("pass", outcome=o).exit_code for o in ("pass", "regression", "cannot tell")}
    assert codes == {"pass": 0, "regression": 1, "cannot tell": 3}
    found = check("regression", launches=({"baseline": [[1, 2]], "run": [[3, 4]]},))
    again = Check.model_validate_json(found.model_dump_json(by_alias=True))
    assert again == found
    assert again.launches[0].run == ((3, 4),)


def test_the_picture_of_the_history_has_a_dot_per_run_and_a_line_per_change() -> None:
    values = noisy([1.0] * 15 + [1.2] * 15)
    drift = drift_of([past(i, value) for i, value in enumerate(values)])
    picture = ElementTree.fromstring(pasts.picture('a<b>&"c\x00', drift))  # noqa: S314 - ours
    kinds = [element.get("class") for element in picture.iter()]
    assert kinds.count("run") == 30
    assert kinds.count("change") == len(drift.changes) == 1
    assert kinds.count("level") == 2
    ElementTree.fromstring(pasts.picture("none", drift_of([])))  # noqa: S314 - ours


def test_the_table_of_the_history(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.xml").write_text("<net/>")
    write_report(folder, report(row()), {"cpu": "x"})
    store = Baselines(tmp_path / "baselines")
    store.save(load(folder), "main", "2026-01-02T03:04:05+00:00", 1.0)
    out = StringIO()
    runs = [past(i, 1.0 + i / 1000) for i in range(30)]
    pasts.show(store.load("main"), runs, drift_of(runs), Console(file=out, width=150))
    assert "main v1" in out.getvalue()
    assert out.getvalue().count("checked") == pasts.SHOWN
    assert "30 runs" in out.getvalue()
