"""`edgesmith compare` as a user runs it: small ONNX models, folders, targets and revisions."""

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
from calibration_nets import resnet
from conftest import one_line, run_cli
from quantize_nets import two_inputs

QUICK = ("--samples", 50, "--rounds", 3, "--launches", 1, "--max-s", 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(resnet(width=8), tmp_path / "small.onnx")
    onnx.save(resnet(width=96), tmp_path / "large.onnx")
    return tmp_path


def compared(folder: Path, *args: object) -> dict[str, Any]:
    done = run_cli("compare", *args, *QUICK, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "edgesmith.comparison/1"
    return found


def test_a_larger_model_is_slower_and_the_picture_shows_both(folder: Path) -> None:
    done = run_cli("compare", "large.onnx", "small.onnx", *QUICK, "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "A is slower than B by" in done.stdout
    found = json.loads((folder / "out" / "comparison.json").read_text())
    assert [verdict["q"] for verdict in found["verdicts"]] == [0.5, 0.9, 0.99]
    assert found["verdicts"][0]["kind"] == "slower"
    assert found["verdicts"][0]["ratio"]["low"] > 1
    rounds = [len(found[side]["measured"]["blocks_ns"]) for side in "ab"]
    assert rounds[0] == rounds[1] >= 3  # more, where a busy machine wants more launches
    drawn = ElementTree.parse(folder / "out" / "comparison.svg").getroot()  # noqa: S314 - our own file
    words = "".join(drawn.itertext())
    assert "large.onnx" in words
    assert "A is slower than B" in words


def test_one_model_on_two_targets(folder: Path) -> None:
    found = compared(folder, "small.onnx", "--target", "cpu", "--against", "mobile")
    assert (found["a"]["target"], found["b"]["target"]) == ("cpu", "mobile")
    assert found["b"]["proxy"]


def test_a_built_folder_and_throughput(folder: Path) -> None:
    assert run_cli("compile", "small.onnx", "--out", "built", cwd=folder).returncode == 0
    found = compared(folder, "built", "small.onnx", "--mode", "throughput", "--streams", 2)
    assert [verdict["q"] for verdict in found["verdicts"]] == [0.5]
    assert found["a"]["measured"]["mode"] == "throughput"
    assert len(found["a"]["measured"]["walls_ns"]) == 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nothing.onnx", "small.onnx"], "there is no model nothing.onnx"),
        (["nothing", "small.onnx"], "there is no nothing: give an .onnx file, a recipe, REVISION:RECIPE"),
        (["small.onnx", "other.onnx"], "other.onnx takes image 2×3×8×8, which 2: not the same job"),
        (["empty", "small.onnx"], "empty: has no model.xml, which target cpu builds, and no manifest.json"),
        (["small.onnx", "small.onnx", "--target", "jetson", "--device", "none"], "cannot be timed here"),
        (["HEAD:r.yaml", "small.onnx"], "is in no git repository"),
        (["small.onnx", "small.onnx", "--target", "gpu", "--threads", 2], "target gpu has no threads"),
    ],
)
def test_what_cannot_be_compared_says_why_in_one_line(folder: Path, args: list[object], says: str) -> None:
    onnx.save(two_inputs(), folder / "other.onnx")
    (folder / "empty").mkdir()
    done = run_cli("compare", *args, *QUICK, cwd=folder)
    assert done.returncode == 2
    assert says in one_line(done.stderr)


@pytest.mark.parametrize("args", [["small.onnx"], ["small.onnx", "small.onnx", "--within", "much"]])
def test_usage_is_refused_with_a_hint(folder: Path, args: list[str]) -> None:
    done = run_cli("compare", *args, cwd=folder)
    assert done.returncode == 2
    assert "--against" in done.stderr or "--within 1%" in done.stderr


def git(folder: Path, *args: str) -> None:
    user = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *user, *args], cwd=folder, check=True, capture_output=True)


def test_a_revision_that_is_not_there_is_named(folder: Path) -> None:
    git(folder, "init")
    (folder / "r.yaml").write_text("model: {}\n")
    git(folder, "add", "r.yaml")
    git(folder, "commit", "-m", "first")
    for text, says in (
        ("HEAD~1:r.yaml", "has no revision 'HEAD~1'"),
        ("--upload-pack=x:r.yaml", "No such option"),
        ("HEAD:s.yaml", "HEAD has no file s.yaml"),
        ("HEAD:../r.yaml", "lies outside the repository"),
        ("HEAD:r.yaml", "r.yaml cannot be deployed"),
    ):
        done = run_cli("compare", text, "small.onnx", cwd=folder)
        assert done.returncode == 2
        assert says in done.stderr
    listed = subprocess.run(["git", "worktree", "list"], cwd=folder, check=True, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1


def test_a_recipe_now_against_a_revision_of_it(project: Path) -> None:
    folder = project.parent
    git(folder, "init")
    git(folder, "add", "--force", ".")
    git(folder, "commit", "-m", "first")
    done = run_cli("compare", "recipe.yaml", "HEAD:recipe.yaml", *QUICK, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["a"]["size_bytes"] == found["b"]["size_bytes"]
    assert (found["a"]["name"], found["b"]["name"]) == ("recipe.yaml", "HEAD:recipe.yaml")
    listed = subprocess.run(["git", "worktree", "list"], cwd=folder, check=True, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1
