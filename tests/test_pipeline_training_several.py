"""Several devices, as processes on one CPU: real ones, which lightning-fabric joins."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import ModuleType

import psutil
import pytest
import torch
from conftest import COMMAND, environment, one_line, run_cli
from torch import nn
from training_runs import DATA, QUICK, Interrupting, equal, make_split, weights

from pipeline.errors import UserError
from pipeline.progress import SILENT
from pipeline.pruning.sparsity import hold, sparsify
from pipeline.training.config import Distillation
from pipeline.training.distill import Distilled
from pipeline.training.loop import BEST, LAST, fit
from pipeline.training.several import together

TWO = replace(QUICK, devices=2, batch_size=15)  # one device sees 8 of every batch, the other 7
PLAIN = replace(DATA, augment=None)
TAUGHT = Distillation(response=0.5, hard=0.5, feature=1.0, taps=("body.1",))


class Net(nn.Module):
    """No BatchNorm, no dropout: nothing that depends on how a batch is shared. One layer is never used."""

    def __init__(self, width=6):
        super().__init__()
        torch.manual_seed(width)
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head, self.spare = nn.Linear(16 * width, 4), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def job():
    """A model with half its weights held at zero, and what teaches it."""
    sparse = sparsify(Net(), 0.5, ignore=["spare"])
    hold(sparse.model, sparse.mask)
    objective = Distilled(TAUGHT, TWO, sparse.model, Net(12), torch.zeros(2, 1, 8, 8))
    return sparse.model, objective


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training on two devices: its history, model, objective and folder."""
    folder = tmp_path_factory.mktemp("whole")
    model, objective = job()
    progress = Interrupting()
    history = fit(model, PLAIN, TWO, folder, progress, objective)
    assert progress.labels == [(f"epoch {i}/3", 5) for i in (1, 2, 3)]
    assert len(progress.notes) == 3 * (5 + 1)
    assert (
        progress.notes[-1] == f"loss {history.epochs[2].loss:.3f}  validation {history.epochs[2].validation.top1:.2%}"
    )
    return history, model, objective, folder


def test_two_devices_take_the_steps_that_one_takes(whole, tmp_path):
    history, model, objective, _ = whole
    alone, taught = job()
    expected = fit(alone, PLAIN, replace(TWO, devices=1), tmp_path, objective=taught)
    start = job()[0]
    for (name, ours), theirs, before in zip(
        weights(model).items(), weights(alone).values(), weights(start).values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert torch.equal(ours, before) == name.startswith("spare"), name
        assert torch.equal(ours == 0, before == 0), name
    torch.testing.assert_close(objective.regressors.state_dict(), taught.regressors.state_dict(), rtol=0, atol=1e-5)
    assert not equal(weights(objective.regressors), weights(job()[1].regressors))
    for ours, theirs in zip(history.epochs, expected.epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.validation.loss == pytest.approx(theirs.validation.loss, abs=1e-5)
    assert history.epochs[2].loss < 0.9 * history.epochs[0].loss


def test_an_interrupted_run_resumes_bit_for_bit_and_leaves_no_process(whole, tmp_path):
    history, expected, regressors, folder = whole
    model, objective = job()
    (tmp_path / f"{LAST}.123.tmp").write_bytes(b"half")  # as one that was killed while it wrote leaves it
    with pytest.raises(KeyboardInterrupt):
        fit(model, PLAIN, TWO, tmp_path, Interrupting(5), objective)
    assert members(psutil.Process()) == []
    model, objective = job()
    assert fit(model, PLAIN, TWO, tmp_path, SILENT, objective) == history
    assert equal(weights(model), weights(expected))
    assert equal(weights(objective.regressors), weights(regressors.regressors))
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, LAST]
    for name in (BEST, LAST):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_finished_run_starts_no_process_and_another_number_of_devices_is_another_run(whole, monkeypatch):
    history, expected, _, folder = whole
    monkeypatch.setattr("pipeline.training.loop.together", None)
    model, objective = job()
    assert fit(model, PLAIN, TWO, folder, SILENT, objective) == history
    assert equal(weights(model), weights(expected))
    for devices in (1, 3):
        model, objective = job()
        with pytest.raises(UserError, match="give another folder"):
            fit(model, PLAIN, replace(TWO, devices=devices), folder, SILENT, objective)


def test_divergence_is_one_line_here_too(tmp_path):
    train = make_split(70, 0)
    train.x[:] = float("nan")
    with pytest.raises(UserError, match=r"^training diverged: the loss is nan at step 0 \(epoch 1\)"):
        fit(Net(), replace(PLAIN, train=train), TWO, tmp_path)


@pytest.mark.parametrize("devices", ["auto", 1])
def test_one_device_needs_no_lightning(tmp_path, monkeypatch, devices):
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert len(fit(Net(), PLAIN, replace(QUICK, epochs=1, devices=devices), tmp_path).epochs) == 1


def test_without_lightning_several_devices_are_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.extras.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^devices: 2 needs lightning_fabric: pip install 'edgesmith\[fabric\]'$"):
        fit(Net(), PLAIN, TWO, tmp_path)


def test_a_batch_that_is_too_small_to_share(tmp_path):
    with pytest.raises(UserError, match=r"^devices: 20 cannot share batches of 15; raise batch_size, or lower devices"):
        fit(Net(), PLAIN, replace(TWO, devices=20), tmp_path)


def test_what_cannot_be_copied_is_one_line(tmp_path):
    data = replace(DATA, augment=lambda x, rng: x)
    with pytest.raises(
        UserError, match=r"^devices: 2 cannot copy the model, the data and its augm.*<lambda>.*top level"
    ):
        fit(Net(), data, TWO, tmp_path)


class Elsewhere:
    """What a new process does not find, as the module it says it is from exists here only."""

    def __call__(self, team, progress):
        raise AssertionError("never got there")


def test_what_a_new_process_does_not_find_is_one_line(monkeypatch):
    ghost = ModuleType("ghost")
    ghost.Elsewhere = Elsewhere
    monkeypatch.setitem(sys.modules, "ghost", ghost)
    monkeypatch.setattr(Elsewhere, "__module__", "ghost")
    with pytest.raises(UserError, match=r"a new process cannot copy the model.*No module named 'ghost'.*top level"):
        together(Elsewhere(), 2, "cpu")


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Work that kills the process it comes to."""

    def __reduce__(self):
        return _die, ()


def test_a_process_that_is_killed_is_one_line():
    with pytest.raises(UserError, match=r"^training on 2 devices: process \d terminated with signal SIGKILL; .*lower"):
        together(Deadly(), 2, "cpu")


@pytest.fixture
def recipe(project):
    """A user's project, of which only training is of interest; the model is of a file of theirs."""
    text = project.read_text()
    options = "{epochs: 2, batch_size: 32, lr: 0.05, devices: 2, accelerator: cpu"
    more = ", mixup: 0.2, cutmix: 1.0, ema: 0.9, distill: {feature: 1, relation_distance: 1}}"
    assert "{epochs: 2, batch_size: 32, lr: 0.05}" in text
    project.write_text(text.replace("{epochs: 2, batch_size: 32, lr: 0.05}", options + more))
    return project


def test_a_recipe_trains_the_model_of_a_file_on_two_devices(recipe):
    done = run_cli("finetune", recipe.name, "--out", "tuned", cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert [line.partition("  ")[0] for line in done.stderr.splitlines() if "epoch" in line] == [
        "✓ epoch 1/2",
        "✓ epoch 2/2",
    ], done.stderr
    assert "Warning" not in done.stderr
    figures = json.loads((recipe.parent / "tuned" / "info.json").read_text())["figures"]
    assert (figures["devices"], figures["epochs"], figures["taps"]) == (2, 2, ["2", "5"])


def test_ctrl_c_while_processes_start_is_one_line_and_leaves_none(recipe):
    command = [*COMMAND, "finetune", recipe.name, "--out", "tuned"]
    with subprocess.Popen(
        command, cwd=recipe.parent, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not members(psutil.Process(process.pid)):
            assert process.poll() is None
            time.sleep(0.02)
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_line(stderr).startswith("error: interrupted")
    assert psutil.wait_procs(started, timeout=20)[1] == []


def members(process):
    """The processes that `process` trains in: those that its server of processes has forked."""
    servers = [child for child in process.children() if "forkserver" in " ".join(child.cmdline())]
    return [member for server in servers for member in server.children()]
