import io
import json
from pathlib import Path

import jsonschema
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.errors import UserError
from pipeline.report import table
from pipeline.report.cuts import pruned
from pipeline.report.files import read
from pipeline.report.markdown import markdown
from pipeline.report.schema import Report
from pipeline.report.terminal import show
from pipeline.report.widths import picture

STAGES = ["source", "prune", "finetune", "calibrate", "export", "compile"]


@pytest.fixture(scope="module")
def report(deployed: Path) -> Report:
    return read(deployed / "artifacts" / "recipe" / "cpu")


def test_the_published_schema_is_the_reports(report: Report) -> None:
    published = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    assert published == Report.model_json_schema(), "run: edgesmith schema --report > docs/report.schema.json"
    jsonschema.validate(json.loads(report.model_dump_json(by_alias=True)), published)


def test_every_stage_has_every_figure(report: Report) -> None:
    assert [row.stage for row in report.stages] == STAGES
    for row in report.stages:
        assert row.size_bytes > 0
        assert row.params
        assert row.macs
        assert row.latency is not None
        assert row.memory_peak_bytes
        assert row.latency.p50_ms.low <= row.latency.p50_ms.value <= row.latency.p50_ms.high
        assert row.latency.p50_ms.value <= row.latency.p90_ms.value <= row.latency.p99_ms.value
        assert sum(map(len, row.latency.samples)) >= 50
        assert row.metrics["top1"].n == 60  # the whole test split
        assert row.metrics["validation_top1"].n == 48
        assert row.device is not None
        assert row.device.fingerprint["cpu"]
        assert row.runtime["openvino"]
        assert not row.proxy


def test_pruning_and_int8_show_in_the_figures(report: Report) -> None:
    source, pruned, int8 = (report.row(name) for name in ("source", "prune", "calibrate"))
    assert pruned.params < source.params
    assert pruned.macs < source.macs
    assert pruned.figures["proof_max_rel_error"] < 1e-4
    assert source.figures["onnx_max_abs_delta"] < 1e-4
    assert source.precision.ran == {"f32": 3}
    assert sum(n for kind, n in int8.precision.ran.items() if kind in ("i8", "u8")) >= 2


def test_what_is_not_new_is_not_measured_twice(report: Report) -> None:
    goes_on = report.row("export").same_as
    assert goes_on in STAGES[:4]
    assert (goes_on == "calibrate") == (not report.row("calibrate").verdict.rejected)
    assert report.row("compile").same_as == report.shipped == goes_on
    assert report.row("compile").latency == report.row("export").latency == report.row(goes_on).latency


def test_terminal_and_markdown_say_the_same(report: Report) -> None:
    console = Console(width=220, record=True, file=io.StringIO())
    show(report, console)
    shown, written = console.export_text(), markdown(report)
    for row in table.rows(report):
        for cell in row:
            assert cell in shown
            assert cell in written


def test_markdown_is_one_table_with_aligned_columns(report: Report) -> None:
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(STAGES)
    assert {line.count("|") for line in lines} == {len(table.HEADER) + 1}


def test_the_report_leads_to_the_picture_of_the_pruned_layers(report: Report, deployed: Path) -> None:
    found = pruned(report)
    assert found is not None
    stage, cut = found
    assert stage == "prune"
    assert cut.macs == (report.row("source").macs, report.row("prune").macs)
    assert cut.params == (report.row("source").params, report.row("prune").params)
    assert "- prune: every layer before and after in [widths.svg](widths.svg)\n" in markdown(report)
    drawn = (deployed / "artifacts" / "recipe" / "cpu" / "widths.svg").read_text()
    assert drawn == picture(cut, "recipe")


def test_without_pruning_there_is_no_picture(report: Report) -> None:
    rows = tuple(row.model_copy(update={"figures": {}}) for row in report.stages)
    dense = report.model_copy(update={"stages": rows})
    assert pruned(dense) is None
    assert "widths.svg" not in markdown(dense)


def test_a_value_cannot_break_the_table(report: Report) -> None:
    row = report.stages[0]
    evil = row.model_copy(update={"verdict": row.verdict.model_copy(update={"text": "a | b\nc [red]d"})})
    changed = report.model_copy(update={"stages": (evil, *report.stages[1:])})
    lines = [line for line in markdown(changed).splitlines() if line.startswith("| source")]
    assert len(lines) == 1
    assert "a \\| b c [red]d" in lines[0]


def test_reading_what_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no report"):
        read(tmp_path)
    for text in ("{}", "not json", '{"schema": "edgesmith.report/9"}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(UserError, match=r"is no edgesmith\.report/1"):
            read(tmp_path)


@given(st.integers(min_value=0, max_value=10**13))
def test_sizes_keep_three_digits(n: int) -> None:
    text, unit = table.size(n).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert abs(float(text) * factor - n) <= 0.005 * factor + 1e-9
