"""Nothing in a device's URL, a name, a path or an answer can run a command or leave its folder, there or here."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sshd import Sshd
from test_targets_local import elementwise

from targets import depot, guard, names
from targets.backends.mobile import Mobile
from targets.base import TargetError
from targets.devices import _address, _bootstrap, _store
from targets.devices._address import Address
from targets.devices.local import Local
from targets.devices.ssh import Ssh

T = TypeVar("T")
SHELL = set("'\"`$;&|<>\n\r\0\\*?[](){}!# \t")
# What means something to a shell, to ssh, to a file system or to a terminal, twice as often as what does not.
LETTERS = "aZ0/.-_~@:%=?&'\"`$(){};|<>\n\r\0\x1b\\ *" * 2 + "bcdefgXYZ123+,^!#[]\t\x7f\x85\u2028\u202e\ud800ü漢🙂"
anything = st.binary(max_size=24).map(lambda drawn: "".join(LETTERS[byte % len(LETTERS)] for byte in drawn))


@settings(max_examples=10_000, database=None, phases=(Phase.explicit, Phase.generate))
@given(anything)
@example("-oProxyCommand=touch x")
@example("python3\ntouch x")
@example("python3' ; touch x; '")
@example("../../etc")
@example("/a/../../etc")
@example("~/.ssh")
def test_no_text_means_more_than_it_says_wherever_it_is_given(text: str) -> None:
    """Ten thousand texts, each as host, user, whole query, option, interpreter, file name, path and hash."""
    for url in (f"ssh://{text}", f"ssh://{text}@board", f"ssh://board?{text}", f"ssh://board?python={text}"):
        if (found := _allowed(_address.parse, url)) is not None:
            _harmless(found)
    for option in _address.OPTIONS:
        if (found := _allowed(_address.with_options, Address("board"), {option: text})) is not None:
            _harmless(found)
    if (command := _allowed(_bootstrap.command, text)) is not None:
        assert shlex.split(command) == [text, "-u", "-c", _bootstrap.PROGRAM]
        assert SHELL.isdisjoint(text)
    if (path := _allowed(names.inside, Path("/nowhere/root"), text)) is not None:
        assert os.path.normpath(path) == str(path)
        assert str(path).startswith("/nowhere/root/")
        assert str(path).isprintable()
    if (there := _allowed(names.absolute, text)) is not None:
        assert os.path.normpath(there) == there
        assert there.startswith("/")
        assert there.isprintable()
    if _allowed(names.digest, text) is not None:
        assert re.fullmatch("[0-9a-f]{64}", text)


def _allowed(function: Callable[..., T], *arguments: Any) -> T | None:
    """What a function returns, None where it refuses, which must be one line."""
    try:
        return function(*arguments)
    except TargetError as refused:
        line = str(refused)
    assert "\n" not in line
    assert line.isprintable()
    return None


def _harmless(found: Address) -> None:
    assert not SHELL.intersection(found.host + (found.user or "") + found.python + found.folder)
    for text in (found.host, found.user or "", found.python, found.folder):
        assert not text.startswith("-")
        assert ".." not in text.split("/")
    assert all(text is None or text.isprintable() for text in (found.key, found.known_hosts))
    assert _address.parse(found.url) == Address(found.host, found.user, found.port)


@pytest.mark.parametrize("given_for_one", [None, 5, ["a"], {}, b"a", True])
def test_what_is_no_text_is_refused(given_for_one: Any) -> None:
    for function in (names.relative, names.absolute, names.digest):
        with pytest.raises(TargetError):
            function(given_for_one)


def test_the_program_has_nothing_that_a_shell_reads_within_single_quotes() -> None:
    assert not set("'`$!\\\n").intersection(_bootstrap.PROGRAM)
    assert _bootstrap.PROGRAM.isascii()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A depot as on a board."""
    made = tmp_path / "root"
    for name in depot.FOLDERS:
        (made / name).mkdir(parents=True)
    monkeypatch.setenv(depot.ROOT, str(made))
    return made


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../../x", "a\nb", "", ".", "a//b", "a\\..\\b", "\0"])
def test_an_arranged_name_cannot_leave_its_folder(root: Path, name: str) -> None:
    digest = depot.sha256(_blob(root, b"data"))
    with pytest.raises(TargetError):
        depot.arrange({"files": {name: digest}})
    assert not list((root / "work").iterdir())


@pytest.mark.parametrize("digest", ["../../etc/passwd", "x" * 64, "A" * 64, "", 5])
def test_a_blob_has_a_hash_for_a_name(root: Path, digest: Any) -> None:
    with pytest.raises(TargetError, match="not a sha256"):
        depot.arrange({"files": {"a": digest}})


def test_a_blob_that_is_not_what_it_says_or_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    blob = _blob(root, b"data")
    blob.write_bytes(b"evil")
    with pytest.raises(TargetError, match="damaged"):
        depot.arrange({"files": {"a": blob.name}})
    assert not blob.exists()
    (tmp_path / "secret").write_bytes(b"data")
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(TargetError, match="damaged"):
        depot.arrange({"files": {"a": blob.name}})


def test_an_arranged_folder_that_was_changed_is_made_again(root: Path) -> None:
    blob = _blob(root, b"data")
    folder = Path(depot.arrange({"files": {"a": blob.name, "b/c": blob.name}}))
    (folder / "a").unlink()
    (folder / "a").write_bytes(b"evil")
    (folder / "more").write_bytes(b"evil")
    again = Path(depot.arrange({"files": {"a": blob.name, "b/c": blob.name}}))
    assert again == folder
    assert {path.relative_to(again).as_posix(): path.read_bytes() for path in again.rglob("*") if path.is_file()} == {
        "a": b"data",
        "b/c": b"data",
    }


@pytest.mark.parametrize("path", ["/etc", "../..", "{root}/out/../../..", "{root}/out", "{root}/blobs", "/"])
def test_only_what_agents_wrote_is_told_of_or_removed(root: Path, path: str) -> None:
    for order in (depot.digests, depot.clear):
        with pytest.raises(TargetError):
            order({"path": path.format(root=root)})
    assert root.is_dir()


def test_a_link_among_the_results_is_not_followed(root: Path) -> None:
    room = Path(depot.room({}))
    (room / "link").symlink_to("/etc/passwd")
    with pytest.raises(TargetError, match="is a link"):
        depot.digests({"path": str(room)})


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\nb"])
def test_an_answer_cannot_write_outside_its_folder_here(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    store = _store.BoardStore("board", Address("board"), _store.Tell(lambda *_: None, print))  # type: ignore[arg-type, return-value]
    with pytest.raises(TargetError):
        store.fetch("/there", {name: {"size": 0, "sha256": "0" * 64}}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_later_process_of_the_same_number_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        guard.kill([(process.pid, "1"), (process.pid, ""), (0, ""), (1, guard.started(1)), (-1, "")])
        assert process.poll() is None
        guard.kill([(process.pid, guard.started(process.pid))])
        assert process.wait(timeout=10) == -9


def _blob(root: Path, data: bytes) -> Path:
    (root / "x").write_bytes(data)
    path = root / "blobs" / depot.sha256(root / "x")
    (root / "x").rename(path)
    return path


# ---- through a real sshd, with a canary ----


@pytest.mark.parametrize(
    "options",
    [
        {"python": "python3; touch {canary}"},
        {"python": "$(touch {canary})"},
        {"python": "`touch {canary}`"},
        {"python": "python3' -c 'import os; os.mknod(\"{canary}\")"},
        {"python": "python3\ntouch {canary}"},
        {"folder": "x; touch {canary}"},
        {"folder": "../../{canary}"},
        {"folder": "$(touch {canary})"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_with_shell_characters_are_refused(board: Sshd, tmp_path: Path, options: dict[str, str]) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(TargetError):
        Ssh.at(board.url(**{name: value.format(canary=canary) for name, value in options.items()}), {})
    assert not canary.exists()


def test_names_with_shell_characters_arrive_as_they_are(board: Sshd, tmp_path: Path) -> None:
    odd = ["a b", "$(touch canary)", "a;touch canary", "`touch canary`", "'quoted'", "-rf", "ü", "~", "*"]
    folder = tmp_path / "built"
    folder.mkdir()
    Local().build(Mobile(), elementwise(tmp_path / "m.onnx", "Relu"), folder)
    for name in odd:
        (folder / name).write_bytes(name.encode())
    x = np.ones((2, 4), np.float32)
    feeds, results = tmp_path / "$(touch canary).npz", tmp_path / "`touch canary`.npz"
    np.savez(feeds, x=x)
    device = Ssh.at(board.url(), {})
    device.infer(Mobile(), folder, feeds, results)
    device.close()
    with np.load(results) as out:
        np.testing.assert_array_equal(out["y"], x)
    assert not (tmp_path / "canary").exists()
    assert not (board.kept / "canary").exists()
    kept = {path.name: path.read_bytes() for path in (board.kept / "work").rglob("*") if path.name in odd}
    assert kept == {name: name.encode() for name in odd}


def test_a_name_with_a_line_end_is_refused_before_anything_is_sent(board: Sshd, tmp_path: Path) -> None:
    (tmp_path / "a\nb.bin").write_bytes(b"x")
    device = Ssh.at(board.url(), {})
    with pytest.raises(TargetError, match="characters that are not allowed"):
        device.put(tmp_path / "a\nb.bin")
    device.close()


def test_a_tampered_package_on_the_board_is_not_run(own_board: Sshd, tmp_path: Path) -> None:
    device = Ssh.at(own_board.url(), {})
    device.fingerprint(Mobile())
    (package,) = (own_board.kept / "agent").iterdir()
    canary = tmp_path / "canary"
    data = package.read_bytes()
    evil = f"open({str(canary)!r}, 'w')".encode().ljust(200, b"#")
    package.write_bytes(data[:1000] + evil + data[1000 + len(evil) :])
    with pytest.raises(TargetError, match=f"was changed since it was copied; nothing was run. Remove {package}"):
        device.fingerprint(Mobile())
    device.close()
    assert not canary.exists()
    assert not own_board.agents()


def test_an_agent_started_by_hand_wants_the_right_hash(own_board: Sshd) -> None:
    line = json.dumps({"root": str(own_board.kept), "agent": "0" * 64})
    words = shlex.split(_bootstrap.command(sys.executable))
    done = subprocess.run(words, input=line, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert not done.stdout
