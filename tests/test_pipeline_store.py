import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, environment
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import NotStoredError, Store

PARTS = {"stage": "x", "fields": {"a": 1}, "code": {"m": "1"}}


def write(text: str = "hello"):
    return lambda out: (out / "file.txt").write_text(text) and None


def test_makes_once_and_finds_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, cached = store.make(PARTS, write())
    again, cached_again = store.make(PARTS, lambda out: pytest.fail("worked twice"))
    assert (cached, cached_again) == (False, True)
    assert first == again
    assert (first.path / "file.txt").read_text() == "hello"


def test_same_bytes_have_the_same_digest_whatever_they_were_made_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, _ = store.make({"stage": "a"}, write())
    b, _ = store.make({"stage": "b"}, write())
    c, _ = store.make({"stage": "c"}, write("other"))
    assert a.digest == b.digest != c.digest


def test_a_changed_file_is_noticed_and_made_again(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path, said.append)
    path = store.make(PARTS, write())[0].path / "file.txt"
    path.chmod(0o644)
    path.write_text("hellO")
    assert store.get(PARTS) is None
    artifact, cached = store.make(PARTS, write())
    assert not cached
    assert (artifact.path / "file.txt").read_text() == "hello"
    assert "was changed" in said[0]


@pytest.mark.parametrize("content", ["", "[]", '{"digest": 3}', "{"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    entry = store.make(PARTS, write())[0].path.parent / "entry.json"
    entry.write_text(content)
    assert store.get(PARTS) is None
    assert store.make(PARTS, write())[1] is False


def test_an_added_file_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.make(PARTS, write())[0].path
    (path / "extra").write_text("")
    assert store.get(PARTS) is None


def test_failed_work_leaves_no_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(out: Path) -> None:
        (out / "half").write_text("")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        store.make(PARTS, fail)
    assert store.get(PARTS) is None
    artifact, _ = store.make(PARTS, write())
    assert [p.name for p in artifact.path.iterdir()] == ["file.txt"]


def test_resumable_work_finds_what_it_left(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def interrupted(out: Path) -> None:
        (out / "epoch1").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make(PARTS, interrupted, resumable=True)
    seen: list[str] = []
    store.make(PARTS, lambda out: seen.extend(p.name for p in out.iterdir()), resumable=True)
    assert seen == ["epoch1"]


def test_a_read_only_store_never_works(tmp_path: Path) -> None:
    with pytest.raises(NotStoredError):
        Store(tmp_path, readonly=True).make(PARTS, write())
    assert not any(tmp_path.iterdir())


def _race(root: str, log: str) -> None:
    def work(out: Path) -> None:
        with Path(log).open("a") as f:
            f.write("worked\n")
        time.sleep(0.3)
        (out / "file.txt").write_text("hello")

    Store(Path(root)).make(PARTS, work)


def test_two_processes_that_want_the_same_work_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    racers = [context.Process(target=_race, args=(str(tmp_path / "s"), str(log))) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert log.read_text() == "worked\n"
    assert Store(tmp_path / "s").get(PARTS) is not None


KILLED = """
import sys, time
from pathlib import Path
from pipeline.store import Store
def work(out):
    for i in range(200):
        (out / f"{i}.txt").write_text("x" * 1000)
        print(i, flush=True)
        time.sleep(0.002)
Store(Path(sys.argv[1])).make({"stage": "killed"}, work)
print("done", flush=True)
"""


@pytest.mark.parametrize("after", ["0", "57", "199"])
def test_kill_at_any_moment_leaves_no_broken_entry_and_no_lock(tmp_path: Path, after: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == after:
                os.kill(process.pid, signal.SIGKILL)
                break
    found = Store(tmp_path).get({"stage": "killed"})
    assert found is None or len(list(found.path.iterdir())) == 200
    artifact, _ = Store(tmp_path).make({"stage": "killed"}, write())  # does not wait for a dead process
    assert artifact.path.is_dir()


def test_why_names_what_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.why("slot", PARTS) == "never run"
    store.remember("slot", PARTS)
    assert "a: 1 → 2" in store.why("slot", {**PARTS, "fields": {"a": 2}})
    assert store.why("slot", {**PARTS, "code": {"m": "2"}}) == "code m changed"
    assert "missing from the store" in store.why("slot", PARTS)


def test_why_survives_a_damaged_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember("slot", PARTS)
    next((tmp_path / "last").iterdir()).write_text("{")
    assert "damaged" in store.why("slot", PARTS)


def test_the_record_holds_what_the_key_is_made_of(tmp_path: Path) -> None:
    entry = Store(tmp_path).make(PARTS, write())[0].path.parent / "entry.json"
    assert json.loads(entry.read_text())["parts"] == PARTS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), st.dictionaries(st.text(), json_values))
def test_keys_are_equal_only_for_equal_parts(a: dict, b: dict) -> None:
    canonical = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (Store.key(a) == Store.key(b)) == canonical
