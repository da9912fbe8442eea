import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import zoo_nets
from torch import nn

from benchmarks import zoo, zoo_graph, zoo_models, zoo_report

ROOT = Path(__file__).resolve().parents[1]
NETS = ROOT / "tests" / "zoo_nets.py"


def command(file: Path, *names: str, more: tuple[str, ...] = ()) -> list[str]:
    models = [f"{NETS}:{name}" for name in names]
    script = str(ROOT / "benchmarks" / "zoo.py")
    return [sys.executable, script, "--models", *models, "--engines", "edgesmith", "--json", str(file), *more]


def stored(file: Path) -> dict[str, dict[str, dict[str, object]]]:
    models = json.loads(file.read_text())["models"]
    return {name.rpartition(":")[2]: records for name, records in models.items()}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "new" / "zoo.json"
    with subprocess.Popen(command(file, "two_heads", "misfit"), stdout=subprocess.PIPE, text=True) as first:
        while first.poll() is None and not file.exists():
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        printed, _ = first.communicate(timeout=20)
    assert "interrupted" in printed
    before = stored(file)
    assert before["two_heads"]["original"]["status"] == "ok"
    # an edit that another run would undo
    changed = json.loads(file.read_text())
    changed["models"][f"{NETS}:two_heads"]["original"]["mark"] = 1
    file.write_text(json.dumps(changed))
    second = subprocess.run(command(file, "two_heads", "misfit"), capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    after = stored(file)
    assert after["two_heads"]["original"]["mark"] == 1
    ours, theirs = after["two_heads"]["edgesmith"], after["two_heads"]["original"]
    assert (theirs["kind"], theirs["trains"], sorted(theirs["heads"])) == ("conv", True, ["boxes", "classes"])
    assert ours["status"] == "ok"
    assert ours["macs"] == ours["macs_predicted"] < theirs["macs"]
    assert ours["params"] == ours["params_predicted"] < theirs["params"]
    assert ours["layers_removed"] == pytest.approx(0.5)
    assert ours["seconds"] > 0 < ours["peak_mb"]
    assert list(after["misfit"]) == ["original"]
    assert after["misfit"]["original"]["status"] == "skipped"
    assert "expected input" in after["misfit"]["original"]["why"]
    assert "edgesmith, conv: 1 models: 1 ok; 1 lose 0.5±0.03 of the channels" in second.stdout


def test_a_process_over_its_time_is_ended_and_results_of_other_settings_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    done = subprocess.run(command(file, "attention", more=("--limit", "0.1")), capture_output=True, check=False)
    assert done.returncode == 0
    assert stored(file)["attention"]["original"]["status"] == "time-out"
    other = subprocess.run(command(file, "attention"), capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert other.stderr.strip() == f"{file} was written with other limit_s: name another --json, or remove it"


@pytest.mark.parametrize(
    ("engine", "found", "code", "expected"),
    [
        ("edgesmith", {"phase": "done"}, 0, ("ok", "")),
        ("edgesmith", {"phase": "prune", "status": "refused", "why": "no"}, 0, ("refused", "no")),
        ("edgesmith", {"phase": "prune"}, -signal.SIGALRM, ("time-out", "in prune")),
        ("edgesmith", {"phase": "train"}, None, ("time-out", "in train")),
        ("edgesmith", {"phase": "forward", "why": "bad"}, 1, ("broken", "forward: bad")),
        ("edgesmith", {"phase": "forward"}, -signal.SIGSEGV, ("broken", "forward: exit code -11")),
        ("edgesmith", {"phase": "count", "why": "bad"}, 1, ("broken", "count: bad")),
        ("torch-pruning", {"phase": "count", "why": "bad"}, 1, ("ok", "bad")),
        ("torch-pruning", {"phase": "prune", "why": "you can't allocate memory"}, 1, ("memory", "in prune")),
        ("torch-pruning", {"phase": "prune"}, -signal.SIGKILL, ("memory", "in prune")),
        ("original", {"phase": "capture", "why": "bad"}, 1, ("skipped", "bad")),
    ],
)
def test_what_a_process_left_decides(
    engine: str, found: dict[str, str], code: int | None, expected: tuple[str, str]
) -> None:
    record = {**found, **zoo.verdict(engine, found, code)}
    assert (record["status"], record.get("why", "")) == expected


@pytest.mark.parametrize(("phase", "trains"), [("train", False), ("done", True)])
def test_an_original_that_does_not_train_is_no_measure_for_training(phase: str, trains: bool) -> None:
    assert zoo.verdict("original", {"phase": phase}, int(not trains)) == {"status": "ok", "trains": trains}


def test_kind_and_heads_are_read_off_the_graph() -> None:
    programs = [
        zoo_graph.export(model.eval(), inputs) for model, inputs in (zoo_nets.two_heads(), zoo_nets.attention())
    ]
    assert [zoo_graph.kind(p) for p in programs] == ["conv", "attention"]
    assert [sorted(zoo_graph.heads(p)) for p in programs] == [["boxes", "classes"], ["head"]]


def test_a_product_of_activations_is_attention_and_one_with_a_parameter_is_not() -> None:
    class Product(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(4, 4))
            self.own = own

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.matrix.relu() if self.own else x.relu())

    kinds = [zoo_graph.kind(zoo_graph.export(Product(own), (torch.randn(4, 4),))) for own in (True, False)]
    assert kinds == ["conv", "attention"]


def test_widths_are_read_off_weights_and_guess_heads() -> None:
    assert zoo_graph.layer_widths(zoo_nets.two_heads()[0]) == {"trunk.0": 8, "trunk.3": 16, "boxes": 4, "classes": 6}
    assert zoo_graph.layer_widths(nn.Sequential(nn.ConvTranspose2d(16, 6, 2, groups=2))) == {"0": 6}
    model, inputs = zoo_nets.attention()
    assert zoo_graph.likely_heads(model, [model(*inputs)]) == ["head"]


def test_nothing_starts_closed_or_equal() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 4))
    model.register_parameter("scale", nn.Parameter(torch.full((8, 1, 1), 1e-6)))
    for p in (model[1].weight, model[2].weight):
        nn.init.zeros_(p)
    torch.manual_seed(0)
    zoo_models.liven(model)
    tensors = {**dict(model.named_parameters()), "mean": model[1].running_mean, "var": model[1].running_var}
    assert all(t.unique().numel() == t.numel() for t in tensors.values())
    assert 0.5 < model.scale.mean() < 1.5
    assert model[1].running_var.min() >= 0.5


ORIGINAL = {"status": "ok", "macs": 100}


@pytest.mark.parametrize(
    ("kind", "record", "reached"),
    [
        ("conv", {"status": "ok", "removed": 0.47, "layers_removed": 0.1, "macs": 90}, True),
        ("conv", {"status": "ok", "layers_removed": 0.54, "macs": 30}, False),
        ("conv", {"status": "broken", "removed": 0.5}, False),
        ("attention", {"status": "ok", "layers_removed": 0.1, "macs": 70}, True),
        ("attention", {"status": "ok", "layers_removed": 0.5, "macs": 71}, False),
        ("attention", {"status": "ok", "layers_removed": 0.5, "macs": None}, False),
    ],
)
def test_what_counts_as_reached(kind: str, record: dict[str, object], reached: bool) -> None:
    assert zoo_report.reaches({"original": {**ORIGINAL, "kind": kind}, "us": record}, "us", 0.5) == reached


def test_the_summary_names_what_holds_a_model_back() -> None:
    held = {
        "status": "ok",
        "removed": 0.25,
        "layers_removed": 0.2,
        "macs": 60,
        "frozen": {"aten.roll": 2, "aten.pad": 9},
    }
    models = {
        "a": {"original": {**ORIGINAL, "kind": "conv"}, "us": held},
        "b": {"original": {**ORIGINAL, "kind": "conv"}, "us": {"status": "broken", "why": "train: no"}},
        "c": {"original": {"status": "skipped", "why": "no such model"}},
    }
    assert list(zoo_report.summary(models, ["us"], 0.5)) == [
        "us, conv: 2 models: 1 ok, 1 broken; 0 lose 0.5±0.03 of the channels (0 by the widths of layers)",
        "original, c: skipped: no such model",
        "us, a: 0.250 of the channels, MACs × 0.600, aten.pad keeps 9 weights, aten.roll keeps 2 weights",
        "us, b: broken: train: no",
    ]
    assert zoo_report.table(models, ["us"]).row_count == 2


def test_times_are_medians_and_compared_with_the_first_engine() -> None:
    def runs(*seconds: float) -> list[dict[str, float]]:
        return [{"seconds": s, "cpu_seconds": s / 2} for s in seconds]

    times = {"a": {"us": runs(1, 2, 9), "them": runs(8, 3, 4)}, "b": {"us": runs(1), "them": []}}
    made = zoo_report.timings(times, ["us", "them"])
    assert [list(column.cells) for column in made.columns] == [
        ["a", "a", "b", "b"],
        ["clock", "processor"] * 2,
        ["2.00", "1.00", "1.00", "0.50"],
        ["4.00", "2.00", "", ""],
        ["2.00", "2.00", "", ""],
    ]


def test_every_family_of_timm_has_a_model() -> None:
    pytest.importorskip("timm", reason="timm is a benchmark's requirement only")
    from timm.models import list_models, list_modules

    missing = [m for m in list_modules() if not set(list_models(module=m)) & set(zoo_models.TIMM.split())]
    assert [m for m in missing if list_models(module=m)] == []
