"""A deployed folder is believed only as far as its hashes fit, and no name leads out of it."""

import json
from pathlib import Path

import pytest
from gate_runs import edited, report, row, write_report
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.gate import runs
from pipeline.manifest import safe


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose artifact is one small file."""
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.xml").write_text("<net/>")
    write_report(folder, report(row()), {"cpu": "x"}, {"p50": 3})
    return folder


def files_of(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((folder / "manifest.json").read_text())["files"]
    return found


def test_a_run_is_read_with_its_tolerances(run: Path) -> None:
    found = runs.load(run)
    assert found.row.size_bytes == 1000
    assert found.manifest.target_name == "cpu"
    assert found.manifest.target().name() == "cpu"
    assert found.gate().p50 == 3
    assert found.digest == runs.load(run).digest


def test_changed_bytes_are_refused(run: Path) -> None:
    (run / "model" / "model.xml").write_text("<nut/>")
    with pytest.raises(UserError, match=r"model.xml: its bytes are not those"):
        runs.load(run)
    (run / "model" / "model.xml").unlink()
    with pytest.raises(UserError, match=r"there is no such file"):
        runs.load(run)


@pytest.mark.parametrize(
    "name", ["../secret", "model/../../secret", "/etc/passwd", "model//x", "model\\..\\x", "c:x", "model/x\0", ".", ""]
)
def test_names_that_lead_out_of_the_folder_are_refused(run: Path, name: str) -> None:
    (run.parent / "secret").write_text("secret")
    edited(run, files={**files_of(run), name: {"sha256": "0" * 64, "size": 6}})
    with pytest.raises(UserError, match="leads out of its folder"):
        runs.load(run)


def test_a_link_out_of_the_folder_is_refused(run: Path) -> None:
    secret = run.parent / "secret"
    secret.write_text("<net/>")
    (run / "model" / "model.xml").unlink()
    (run / "model" / "model.xml").symlink_to(secret)
    with pytest.raises(UserError, match="there is no such file"):
        runs.load(run)


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "\\", "/", ":"]), max_size=6).map("/".join))
def test_safe_names_stay_below(name: str) -> None:
    if safe(name):
        root = Path("/root/folder")
        assert (root / name).is_relative_to(root)
        assert ".." not in (root / name).parts


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "other/1"},
        {"files": []},
        {"files": {"report.json": {"sha256": 1, "size": 1}}},
        {"files": {"report.json": "x"}},
        {"inputs": {}},
        {"inputs": {"input": "abc"}},
        {"target": []},
        {"device": None},
        {"recipe": "x"},
    ],
)
def test_what_is_no_manifest_is_one_line(run: Path, changes: dict[str, object]) -> None:
    edited(run, **changes)
    with pytest.raises(UserError, match=r"manifest.json is no edgesmith.manifest/1"):
        runs.load(run)


def test_a_folder_without_a_manifest_or_with_half_of_one(run: Path) -> None:
    (run / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"is no edgesmith.manifest/1"):
        runs.load(run)
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match="give a folder that `edgesmith deploy` wrote"):
        runs.load(run)


def test_a_manifest_must_list_the_report_and_the_model(run: Path) -> None:
    edited(run, files={"report.json": files_of(run)["report.json"]})
    with pytest.raises(UserError, match="lists no model/"):
        runs.load(run)


def test_wrong_tolerances_in_a_manifest_are_named(run: Path) -> None:
    edited(run, recipe={"gate": {"p50": "much"}})
    with pytest.raises(UserError, match=r"recipe.gate: p50"):
        runs.load(run).gate()
