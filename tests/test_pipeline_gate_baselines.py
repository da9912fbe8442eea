"""Baselines: saved whole, found again, checked when read; and their history."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gate_runs import report, row, write_report

from pipeline.errors import UserError
from pipeline.gate import history, runs
from pipeline.gate.baselines import Baselines

AT = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.xml").write_text("<net/>")
    write_report(folder, report(row()), {"cpu": "x"})
    return runs.load(folder)


@pytest.fixture
def store(tmp_path: Path) -> Baselines:
    return Baselines(tmp_path / "baselines")


def test_a_baseline_outlives_the_run_it_was_saved_from(run: runs.Run, store: Baselines) -> None:
    assert store.names() == ()
    assert store.save(run, "main", AT, 1.0).number == 1
    assert store.save(run, "main", AT, 1.1).number == 2
    (run.folder / "model" / "model.xml").unlink()
    found = store.load("main")
    assert (found.version.number, found.version.level, found.version.saved) == (2, 1.1, AT)
    assert (found.run.model / "model.xml").read_text() == "<net/>"
    assert found.run.report == run.report
    assert found.run.digest == run.digest
    assert store.load("main", 1).version.level == 1.0
    assert store.names() == ("main",)
    assert store.numbers("main") == (1, 2)


def test_a_pointer_leaves_the_artifact_where_it_is_and_notices_when_it_changes(run: runs.Run, store: Baselines) -> None:
    store.save(run, "main", AT, None, copy=False)
    assert not list(store.root.rglob("model.xml"))
    assert store.load("main").run.model == run.model.resolve()
    (run.model / "model.xml").write_text("<new/>")
    with pytest.raises(UserError, match="its bytes are not those"):
        store.load("main")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "-x", ".hidden", "a" * 65, "a b", "a..b", "x\n", "a;b"])
def test_names_that_are_no_plain_words_are_refused(run: runs.Run, store: Baselines, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a baseline"):
        store.save(run, name, AT, 1.0)
    assert not store.root.exists()


def test_what_is_not_there_names_what_is(run: runs.Run, store: Baselines) -> None:
    with pytest.raises(UserError, match="edgesmith baseline save"):
        store.load("main")
    store.save(run, "main", AT, 1.0)
    with pytest.raises(UserError, match="did you mean 'main'"):
        store.load("mian")
    with pytest.raises(UserError, match="has no version 7; have: 1"):
        store.load("main", 7)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "x"}', '{"schema": "edgesmith.baseline/1", "name": "other"}']
)
def test_a_damaged_version_is_one_line(run: runs.Run, store: Baselines, text: str) -> None:
    store.save(run, "main", AT, 1.0)
    (store.root / "main" / "versions" / "0001" / "baseline.json").write_text(text)
    with pytest.raises(UserError, match=r"is no edgesmith.baseline/1"):
        store.load("main")


def test_a_version_moved_to_another_name_is_refused(run: runs.Run, store: Baselines) -> None:
    store.save(run, "main", AT, 1.0)
    store.folder("main").rename(store.folder("other"))
    with pytest.raises(UserError, match=r"is no edgesmith.baseline/1"):
        store.load("other")


def test_a_save_that_was_killed_leaves_the_version_before(run: runs.Run, store: Baselines) -> None:
    store.save(run, "main", AT, 1.0)
    (store.root / "main" / "versions" / ".0002.new" / "model").mkdir(parents=True)
    assert store.numbers("main") == (1,)
    assert store.save(run, "main", AT, 1.0).number == 2
    assert store.load("main").version.number == 2


def test_the_history_keeps_every_run_in_order(run: runs.Run, store: Baselines) -> None:
    assert history.read(store, "main") == ()
    first = history.past_of(run, AT, "saved", 1)
    second = replace(first, event="checked", run="other", level=1.02, ratio=1.02, outcome="pass")
    for past in (first, second):
        history.append(store, "main", past)
    assert history.read(store, "main") == (first, second)
    assert first.accuracy == 0.92
    saved = replace(second, event="saved", level=None)
    assert history.distinct([first, second, saved]) == (first, replace(saved, level=1.02))
    accepted = replace(first, event="accepted", run="third")
    assert history.since_accepted([first, accepted, second]) == (accepted, second)


@pytest.mark.parametrize("line", ["{", "[]", '{"schema": "edgesmith.history/1"}', '{"at": 1}'])
def test_a_damaged_history_names_its_line(run: runs.Run, store: Baselines, line: str) -> None:
    path = history.append(store, "main", history.past_of(run, AT, "saved", 1))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"history.jsonl:2: no line of"):
        history.read(store, "main")


def test_a_figure_that_is_none_is_refused(run: runs.Run, store: Baselines) -> None:
    path = history.append(store, "main", history.past_of(run, AT, "saved", 1))
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "p50_ms": -1}) + "\n")
    with pytest.raises(UserError, match=r"history.jsonl:1"):
        history.read(store, "main")


def test_the_level_of_a_new_version_is_what_a_check_measured(run: runs.Run, store: Baselines) -> None:
    assert history.level_of(run, None, ()) == 1.0
    store.save(run, "main", AT, 1.0)
    checked = replace(history.past_of(run, AT, "checked", 1), level=1.04)
    assert history.level_of(run, store.load("main"), [checked]) == 1.04
    assert history.level_of(run, store.load("main"), []) is None  # this run was measured nowhere
