"""From DEVICE to a device: URLs, names of devices.yaml, pools, and what is wrong with them."""

from pathlib import Path

import pytest

from pipeline.device_files import configured
from pipeline.devices import place, resolve
from pipeline.errors import UserError
from targets.backends.cpu import Cpu
from targets.backends.jetson import Jetson
from targets.base import TargetError
from targets.devices.local import Local
from targets.devices.pool import Pool
from targets.devices.ssh import Ssh

TEXT = """
devices:
  nano: ssh://jetson@nano.lan
  pi1: {url: "ssh://pi@pi1:2222?python=~/venv/bin/python", key: ~/.ssh/board}
  pi2: {url: "ssh://pi@pi2"}
pools:
  pis: [pi1, pi2]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EDGESMITH_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def write(folder: Path, text: str = TEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "devices.yaml").write_text(text)
    return folder / "devices.yaml"


def test_local_and_urls_need_no_file() -> None:
    assert resolve("local") == Local()
    found = resolve("ssh://me@board:2222?python=python3.9")
    assert isinstance(found, Ssh)
    assert (found.name, found.address.python, found.address.port) == ("ssh://me@board:2222", "python3.9", 2222)
    slow = resolve("ssh://me@board?timeout=7200")
    assert isinstance(slow, Ssh)
    assert (slow.timeout_s, found.timeout_s) == (7200.0, 3900.0)


def test_names_and_pools_are_found_beside_the_recipe(home: Path) -> None:
    write(home)
    pi1 = resolve("pi1", beside=home)
    assert isinstance(pi1, Ssh)
    assert (pi1.name, pi1.where) == ("pi1", "ssh://pi@pi1:2222")
    assert (pi1.address.key, pi1.address.python) == ("~/.ssh/board", "~/venv/bin/python")
    pool = resolve("pis", beside=home)
    assert isinstance(pool, Pool)
    assert [member.name for member in pool.members] == ["pi1", "pi2"]
    assert pool.boards == 2


def test_the_recipes_file_goes_before_the_users_and_the_variable_before_both(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "config" / "edgesmith", "devices: {a: ssh://users, b: ssh://users}")
    write(home / "recipe", "devices: {a: ssh://recipes}\npools: {both: [a, b]}")
    found = configured(home / "recipe")
    assert {name: named.url for name, named in found.devices.items()} == {"a": "ssh://recipes", "b": "ssh://users"}
    assert found.pools == {"both": ("a", "b")}
    monkeypatch.setenv("EDGESMITH_DEVICES", str(write(home / "else", "devices: {c: ssh://else}")))
    assert list(configured(home / "recipe").devices) == ["c"]
    monkeypatch.setenv("EDGESMITH_DEVICES", str(home / "none.yaml"))
    with pytest.raises(UserError, match=r"EDGESMITH_DEVICES=.*none\.yaml: there is no such file"):
        configured()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("devices: {a: 5}", r"devices\.yaml: devices\.a"),
        ("device: {}", "unknown key 'device'; did you mean 'devices'"),
        ("devices: {a: {key: x}}", r"devices\.a: the key 'url' is missing"),
        ("devices: {'a b': ssh://x}", "'a b': a name has letters"),
        ("devices: {'../x': ssh://x}", "a name has letters"),
        ("devices: {local: ssh://x}", "the name 'local' is taken"),
        ("devices: {a: ssh://x}\npools: {p: [b]}", r"pools\.p: there is no device 'b'"),
        ("devices: {a: ssh://x}\npools: {a: [a]}", "names a device and a pool"),
        ("pools: {p: []}", "pools"),
        ("devices: [", "no valid YAML"),
        ("- a", "wants keys and values"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(home: Path, text: str, says: str) -> None:
    write(home, text)
    with pytest.raises(UserError, match=says) as raised:
        configured(home)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("pi3", "no device named 'pi3'; did you mean 'pi"),
        ("usb://x", "no device named 'usb'"),
        ("local://x", "device local is this machine"),
        ("pool", "a pool is named in devices.yaml"),
        ("ssh", "'ssh' is no address of a device: write ssh://"),
        ("ssh://a b", "is no address of a device"),
        ("ssh://a:pw@b", "is no address of a device"),
        ("ssh://b/path", "is no address of a device"),
        ("ssh://b:0", "port 0 is not in"),
        ("ssh://b:70000", "port 70000 is not in"),
        ("ssh://b?pyhton=x", "no option 'pyhton': did you mean python"),
        ("ssh://b?key=", "is no file name"),
        ("ssh://b?key=a&key=b", "given twice"),
        ("ssh://b?key", "options read key=value"),
        ("ssh://b?python=a;b", "may have letters"),
        ("ssh://b?folder=~/x", "leave out the ~/"),
        ("ssh://b?timeout=0", "no number of seconds"),
        ("ssh://b?timeout=1e3", "no number of seconds"),
    ],
)
def test_what_is_wrong_with_a_device_is_one_line(home: Path, spec: str, says: str) -> None:
    write(home)
    with pytest.raises((UserError, TargetError), match=says) as raised:
        resolve(spec, beside=home)
    assert "\n" not in str(raised.value)


def test_options_of_a_file_are_as_strict_as_those_of_a_url(home: Path) -> None:
    write(home, "devices: {a: {url: ssh://a, python: 'python3; touch x'}}")
    with pytest.raises(TargetError, match="may have letters"):
        resolve("a", beside=home)


def test_a_target_for_a_board_is_not_built_here() -> None:
    for spec in (None, "local"):
        with pytest.raises(UserError, match="DEVICE=ssh://user@host"):
            place(Jetson(), spec)
    assert place(Jetson(), "none").why_not
    assert place(Cpu(), None).why_not is None
