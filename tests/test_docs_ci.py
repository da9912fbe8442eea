"""The workflow and the snippet of docs/ci.md, run step by step in a checkout: what passes, and what is slower."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from conftest import ROOT, environment, write_project

from pipeline import recipe
from pipeline.gate.tolerances import Gate

PAGE = ROOT / "docs" / "ci.md"
USED = {"actions/checkout@v4", "actions/setup-python@v5", "actions/cache@v4", "actions/upload-artifact@v4"}
STAGES = """\
stages: {source: , export: , compile: }
timing: {samples: 50, rounds: 3, launches: 1, max_s: 3, precision: 0, retries: 0}
"""
# on a small network and a busy machine, what is told is that twice as slow is slower
LOOSE = "gate: {p50: 60%, p90: null, p99: null, memory: 100, size: null, accuracy: null, launches: 6, max_s: 20}\n"


def snippets() -> list[Any]:
    text = PAGE.read_text()
    return [yaml.safe_load(part.partition("```")[0]) for part in text.split("```yaml\n")[1:]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a small recipe, and `edgesmith` on the path."""
    folder = tmp_path_factory.mktemp("checkout")
    path = write_project(folder)
    head = path.read_text().partition("stages:")[0]
    path.write_text(head + STAGES + LOOSE)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "bin").mkdir()
    tool = folder / "bin" / "edgesmith"
    tool.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from pipeline.cli import main; main()' \"$@\"\n")
    tool.chmod(0o755)
    return folder


def run(lines: Iterable[str], folder: Path, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Run a script as the CI does, less the installation."""
    kept = [line for line in lines if not line.startswith("pip install")]
    variables = environment(PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", **extra)
    command = ["bash", "-eo", "pipefail", "-c", "\n".join(kept)]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)


def steps(workflow: Mapping[str, Any], branch: str) -> list[tuple[str, str]]:
    """Name and script of the steps that run on a branch."""
    found = []
    for step in workflow["jobs"]["gate"]["steps"]:
        if "uses" in step:
            assert step["uses"] in USED
            continue
        assert "${{" not in step["run"]  # nothing from outside gets into a script
        if step.get("if") in (None, f"github.ref == 'refs/heads/{branch}'"):
            found.append((step["name"], step["run"]))
    return found


def test_the_workflow_passes_what_is_as_fast_and_fails_what_is_slower(checkout: Path) -> None:
    (_, workflow, _) = snippets()
    assert [name for name, _ in steps(workflow, "main")][-1] == "new baseline"
    summary = checkout / "summary.md"
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    for name, script in steps(workflow, "main"):
        done = run([script], checkout, **variables)
        assert done.returncode == 0, f"{name}\n{done.stdout}{done.stderr}"
    assert "| p50 |" in summary.read_text()
    assert ElementTree.parse(checkout / "check.xml").getroot().find("testsuite") is not None  # noqa: S314 - ours
    recipe_file = checkout / "recipe.yaml"
    recipe_file.write_text(recipe_file.read_text().replace("width: 16", "width: 160"))
    outcomes = {name: run([script], checkout, **variables) for name, script in steps(workflow, "topic")}
    assert outcomes.pop("check").returncode == 1
    assert all(done.returncode == 0 for done in outcomes.values())
    assert summary.read_text().count("regression") >= 2


def test_the_snippet_for_gitlab_runs(checkout: Path) -> None:
    (_, _, gitlab) = snippets()
    job = gitlab["latency"]
    shutil.rmtree(checkout / ".edgesmith" / "baselines", ignore_errors=True)  # as where nothing was cached yet
    done = run(job["script"], checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / job["artifacts"]["reports"]["junit"]).is_file()
    assert all((checkout / path).is_file() for path in job["artifacts"]["paths"])
    assert job["allow_failure"] == {"exit_codes": [3]}


def test_the_commands_of_the_page_run(checkout: Path) -> None:
    block = PAGE.read_text().split("```\n")[1]
    lines = [line for line in block.splitlines() if line.startswith("edgesmith ")]
    assert len(lines) == 5
    done = run(lines, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / "history.svg").is_file()


def test_the_tolerances_of_the_page_are_the_defaults(project: Path) -> None:
    (gate, _, _) = snippets()
    text = project.read_text() + yaml.safe_dump(gate)
    project.write_text(text)
    assert recipe.load(project).sections.gate == Gate()
