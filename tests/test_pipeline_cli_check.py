"""The verbs of the gate as a user runs them: exit codes, files, and one line for what is wrong."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import one_line, run_cli
from gate_runs import edited, write_run

GATE = {"p50": 20, "p90": None, "p99": None, "memory": 50, "size": None, "launches": 8, "max_s": 60}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, one of six times its work, and the first saved as a baseline."""
    folder = tmp_path_factory.mktemp("gate")
    write_run(folder / "base", 10, GATE)
    write_run(folder / "more", 60, GATE)
    done = run_cli("baseline", "save", "base", "--name", "main", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "version 1 of main" in done.stdout
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    shutil.copytree(runs, tmp_path / "gate")
    return tmp_path / "gate"


def elsewhere(folder: Path, **changes: object) -> Path:
    """The run as if it had been measured on another machine."""
    device = json.loads((folder / "manifest.json").read_text())["device"]
    return edited(folder, device={**device, **changes})


def test_the_same_artifact_passes_without_being_measured(runs: Path) -> None:
    done = run_cli("check", "base", "--baseline", "main", "--no-history", cwd=runs)
    assert done.returncode == 0, done.stderr
    assert "byte for byte" in done.stdout
    assert "time baseline" not in done.stderr


def test_a_slower_model_is_a_regression_everywhere_it_is_told(runs: Path, tmp_path: Path) -> None:
    files = {"--junit": tmp_path / "check.xml", "--json": tmp_path / "check.json"}
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    args = [part for pair in files.items() for part in pair]
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = run_cli("check", "more", "--baseline", "main", *args, cwd=runs, **variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "more against main v1: regression (interleaved)" in done.stdout
    assert "::error title=p50%3A regression::more against main: +" in done.stdout
    (suite,) = ElementTree.parse(files["--junit"]).getroot()  # noqa: S314 - ours
    assert {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None} == {"p50"}
    told = json.loads(files["--json"].read_text())
    assert (told["schema"], told["outcome"], told["how"]) == ("edgesmith.check/1", "regression", "interleaved")
    assert len(told["launches"]) >= 4
    assert summary.read_text().startswith("before\n### more against main v1: regression")
    shown = run_cli("baseline", "show", "main", "--out", tmp_path / "history.svg", cwd=runs)
    assert shown.returncode == 0, shown.stderr
    assert "regression" in shown.stdout
    assert ElementTree.parse(tmp_path / "history.svg").getroot().tag.endswith("svg")  # noqa: S314 - ours


def test_a_run_from_elsewhere_is_refused_and_the_line_names_what_differs(copy: Path) -> None:
    elsewhere(copy / "more", governor="powersave")
    done = run_cli("check", "more", "--baseline", "main", "--json", "check.json", cwd=copy, COLUMNS="400")
    assert done.returncode == 3, done.stderr
    assert "→ powersave" in done.stdout
    assert "--allow-fingerprint-change measures both anew, here" in done.stdout
    told = json.loads((copy / "check.json").read_text())
    assert {j["metric"]: j["outcome"] for j in told["judgements"]}["p50"] == "cannot tell"
    anew = run_cli("check", "more", "--baseline", "main", "--allow-fingerprint-change", cwd=copy)
    assert anew.returncode == 1, anew.stderr


def test_a_run_is_not_measured_anew_on_another_machine_unasked(copy: Path) -> None:
    version = copy / ".edgesmith" / "baselines" / "main" / "versions" / "0001"
    for folder in (copy / "more", version):
        elsewhere(folder, governor="of a board")
    check = ("check", "more", "--baseline", "main", "--no-history")
    stored = run_cli(*check, cwd=copy, COLUMNS="400")
    assert stored.returncode in (1, 3)
    assert "(stored)" in stored.stdout
    assert "this is not where the run was measured (governor: of a board → " in stored.stdout
    assert "time baseline" not in stored.stderr
    refused = run_cli(*check, "--remeasure", cwd=copy, COLUMNS="400")
    assert refused.returncode == 3
    assert "or --allow-fingerprint-change measures both anew, here" in refused.stdout
    asked = run_cli(*check, "--remeasure", "--allow-fingerprint-change", cwd=copy)
    assert asked.returncode == 1
    assert "(interleaved)" in asked.stdout
    for folder in (copy / "more", version):
        elsewhere(folder, machine="riscv64")
    other_kind = run_cli(*check, "--allow-fingerprint-change", "--remeasure", cwd=copy, COLUMNS="400")
    assert other_kind.returncode == 3
    assert "the run was measured on riscv64, and this is" in other_kind.stdout


def test_runs_that_were_timed_for_something_else_do_not_compare(copy: Path) -> None:
    edited(copy / "more", recipe={"name": "chain", "gate": GATE, "timing": {"mode": "throughput"}})
    done = run_cli("check", "more", "--baseline", "main", cwd=copy)
    assert done.returncode == 2
    assert "was timed for throughput, the baseline main v1 for latency" in one_line(done.stderr)


@pytest.mark.skipif(any(Path("/").glob("sys/devices/system/cpu/cpu0/cpufreq")), reason="its clocks could be locked")
@pytest.mark.parametrize("verb", [("check", "more", "--baseline", "main", "--remeasure"), ("compare", "more", "base")])
def test_a_device_that_cannot_be_held_as_it_was_is_one_line(copy: Path, verb: tuple[str, ...]) -> None:
    edited(copy / "more", recipe={"name": "chain", "gate": GATE, "board": {"lock_clocks": True}})
    done = run_cli(*verb, "--device", "local", cwd=copy)
    assert done.returncode == 2
    assert "lock_clocks: neither" in one_line(done.stderr)


def test_sizes_are_judged_wherever_a_run_was_measured(copy: Path) -> None:
    elsewhere(copy / "more", governor="powersave")
    done = run_cli("check", "more", "--baseline", "main", "--tolerance", "size=1%", cwd=copy)
    assert done.returncode == 1


def test_stored_samples_alone(runs: Path) -> None:
    done = run_cli("check", "more", "--baseline", "main", "--stored", "--no-history", cwd=runs)
    assert done.returncode in (1, 3)  # six times slower, if days do not differ more than that
    assert "(stored)" in done.stdout
    assert "time baseline" not in done.stderr


def test_a_corrupt_baseline_is_one_line(copy: Path) -> None:
    version = copy / ".edgesmith" / "baselines" / "main" / "versions" / "0001"
    model = version / "model" / "model.bin"
    model.write_bytes(model.read_bytes()[:-1])
    done = run_cli("check", "more", "--baseline", "main", cwd=copy)
    assert done.returncode == 2
    assert "model.bin: its bytes are not those" in one_line(done.stderr)
    (version / "manifest.json").write_text("{")
    done = run_cli("check", "more", "--baseline", "main", cwd=copy)
    assert done.returncode == 2
    assert "manifest.json is no edgesmith.manifest/1" in one_line(done.stderr)


def test_a_manifest_that_leads_elsewhere_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "more" / "manifest.json").read_text())
    manifest["files"]["model/../../../secret"] = {"sha256": "0" * 64, "size": 1}
    edited(copy / "more", files=manifest["files"])
    for args in (("check", "more", "--baseline", "main"), ("baseline", "save", "more", "--name", "x")):
        done = run_cli(*args, cwd=copy)
        assert done.returncode == 2
        assert "leads out of its folder" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["check", "nowhere", "--baseline", "main"], "give a folder that `edgesmith deploy` wrote"),
        (["check", "base", "--baseline", "mian"], "did you mean 'main'"),
        (["check", "base", "--baseline", "main@9"], "has no version 9"),
        (["check", "base", "--baseline", "../x"], "is no name of a baseline"),
        (["check", "base", "--baseline", "main", "--tolerance", "p5=1"], "did you mean 'p50'"),
        (["baseline", "save", "base", "--name", "a b"], "is no name of a baseline"),
        (["baseline", "show", "none"], "has no baseline none"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(runs: Path, args: list[str], told: str) -> None:
    done = run_cli(*args, cwd=runs)
    assert done.returncode == 2
    assert told in one_line(done.stderr)


@pytest.mark.parametrize(
    "args",
    [["check", "base"], ["check", "base", "--baseline", "main@x"], ["baseline", "save", "base"], ["baseline", "x"]],
)
def test_usage_is_exit_code_2(runs: Path, args: list[str]) -> None:
    assert run_cli(*args, cwd=runs).returncode == 2


def test_baselines_are_listed_and_pointed_at(copy: Path) -> None:
    assert run_cli("baseline", "save", "more", "--name", "main", "--pointer", "--accept", cwd=copy).returncode == 0
    listed = run_cli("baseline", "list", cwd=copy)
    assert "main" in listed.stdout
    assert "chain" in listed.stdout
    shown = run_cli("baseline", "show", "main", cwd=copy).stdout
    assert str(copy / "more" / "model") in shown.replace("\n", "")
    assert "accepted" in shown
    empty = run_cli("baseline", "list", "--baselines", "none", cwd=copy)
    assert "no baselines; save one" in empty.stdout
