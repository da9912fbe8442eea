import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from training_runs import DATA, QUICK, Interrupting, equal, make_model, make_split, weights

from pipeline.data.base import ArraySplit
from pipeline.errors import UserError
from pipeline.training.config import Training
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import BEST, LAST, fit
from pipeline.training.objective import Objective
from pipeline.training.schedule import rate


class Seeing(Objective):
    """Cross entropy that shows each batch and what the model makes of it."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def forward(self, model, x, y):
        out = model(x)
        self.look(x, y, out)
        return nn.functional.cross_entropy(out, y)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = make_model()
    return fit(model, DATA, QUICK, folder), weights(model), folder


def test_it_learns(tmp_path):
    model = make_model()
    history = fit(model, DATA, replace(QUICK, epochs=12), tmp_path)
    assert evaluate(model, DATA.test).top1 > 0.9
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss


@pytest.mark.parametrize("after", [2, 4, 6, 11])  # an epoch has 4 steps
def test_an_interrupted_run_resumes_bit_for_bit(uninterrupted, tmp_path, after):
    history, expected, folder = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), DATA, QUICK, tmp_path, Interrupting(after))
    assert (tmp_path / LAST).exists() == (after > 4)
    torch.manual_seed(after)  # what the process draws in between must not matter
    torch.rand(5)
    model = make_model()
    assert fit(model, DATA, QUICK, tmp_path) == history
    assert equal(weights(model), expected)
    assert (tmp_path / LAST).read_bytes() == (folder / LAST).read_bytes()
    assert (tmp_path / BEST).read_bytes() == (folder / BEST).read_bytes()


def test_a_bf16_run_resumes_bit_for_bit_too(tmp_path):
    config, whole, cut = replace(QUICK, precision="bf16"), make_model(), make_model()
    fit(whole, DATA, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), DATA, config, tmp_path / "cut", Interrupting(6))
    fit(cut, DATA, config, tmp_path / "cut")
    assert equal(weights(whole), weights(cut))


def test_the_caller_keeps_its_random_state(tmp_path):
    model = make_model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model, DATA, replace(QUICK, epochs=1), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_run_is_not_trained_again(uninterrupted, tmp_path):
    history, expected, folder = uninterrupted
    for name in (LAST, BEST):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model, progress = make_model(), Interrupting()
    assert fit(model, DATA, QUICK, tmp_path, progress) == history
    assert progress.labels == []
    assert equal(weights(model), expected)


def test_a_full_disk_leaves_the_last_epoch_readable(uninterrupted, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), DATA, QUICK, tmp_path, Interrupting(6))
    before = (tmp_path / LAST).read_bytes()

    def cut_off(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.training.state.save_file", cut_off)
        with pytest.raises(UserError, match=r"best\.safetensors: cannot be written \(No space left.*run again"):
            fit(make_model(), DATA, QUICK, tmp_path)
    assert (tmp_path / LAST).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [BEST, LAST]
    assert fit(make_model(), DATA, QUICK, tmp_path) == uninterrupted[0]


def test_the_seed_changes_the_run(uninterrupted, tmp_path):
    history = fit(make_model(), DATA, replace(QUICK, seed=1), tmp_path)
    assert history.epochs[0].loss != uninterrupted[0].epochs[0].loss


@pytest.mark.parametrize("change", ["config", "weights", "data"])
def test_a_folder_of_another_training_is_refused(uninterrupted, change):
    model, data, config = make_model(), DATA, QUICK
    if change == "config":
        config = replace(QUICK, lr=0.06)
    elif change == "weights":
        model[1].fc.bias.data[0] = 1
    else:
        data = replace(DATA, train=make_split(69, 0))
    with pytest.raises(UserError, match="give another folder"):
        fit(model, data, config, uninterrupted[2])


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 100])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(UserError, match=r"last\.safetensors: not a training checkpoint") as error:
        fit(make_model(), DATA, QUICK, tmp_path)
    assert "remove the file" in str(error.value)


class Memoriser(nn.Module):
    """Answers by its step count, so that a given epoch is the best on validation."""

    def __init__(self, good_at_step):
        super().__init__()
        self.good_at_step = good_at_step
        self.weight = nn.Parameter(torch.zeros(4))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.steps += 1
        quadrants = nn.functional.avg_pool2d(x, 4).flatten(1)
        sign = 1 if self.steps == self.good_at_step else -1
        return sign * quadrants + self.weight * 0


def test_the_best_epoch_on_validation_is_kept_and_test_is_never_read(tmp_path):
    class Forbidden(ArraySplit):
        def __getitem__(self, index):
            raise AssertionError("selection read the test split")

    data = replace(DATA, test=Forbidden(DATA.test.x, DATA.test.y))
    model = Memoriser(good_at_step=8)
    history = fit(model, data, QUICK, tmp_path)
    assert history.best == 1
    assert model.steps == 8
    top1 = [epoch.validation.top1 for epoch in history.epochs]
    assert evaluate(model, data.validation).top1 == top1[1] == max(top1)
    assert max(top1[0], top1[2]) < top1[1]


def test_of_equally_good_epochs_the_last_is_kept(tmp_path):
    model = Memoriser(good_at_step=-1)
    assert fit(model, DATA, QUICK, tmp_path).best == 2
    assert model.steps == 12


def test_divergence_is_one_line_with_the_fix(tmp_path):
    with pytest.raises(UserError, match=r"training diverged: the .*loss is .* lower lr \(it is 1e\+30\)") as error:
        fit(make_model(), DATA, replace(QUICK, lr=1e30, warmup=0), tmp_path)
    assert "\n" not in str(error.value)


def test_nan_in_the_data_is_noticed_at_the_first_step(tmp_path):
    train = make_split(70, 0)
    train.x[:] = np.nan
    with pytest.raises(UserError, match=r"the loss is nan at step 0 \(epoch 1\)"):
        fit(make_model(), replace(DATA, train=train), QUICK, tmp_path)


def test_nan_only_in_validation_is_noticed_too(tmp_path):
    validation = make_split(40, 1)
    validation.x[3] = np.nan
    with pytest.raises(UserError, match="the validation loss is nan"):
        fit(make_model(), replace(DATA, validation=validation), QUICK, tmp_path)
    assert not (tmp_path / BEST).exists()


def test_steps_equal_a_slow_sgd(tmp_path):
    """Nesterov momentum and weight decay of Sutskever et al., ICML 2013, in the form torch documents."""
    config = Training(
        epochs=1,
        batch_size=20,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.01,
        warmup=0.5,
        precision="f32",
        accelerator="cpu",
    )
    split = make_split(80, 0)
    data = replace(DATA, train=split, augment=None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    seen, w = [], {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}

    def look(x, y, out):
        seen.append((x.double().numpy().reshape(len(x), -1).copy(), y.numpy().copy()))

    fit(model, data, config, tmp_path, objective=Seeing(look))
    v = {n: np.zeros_like(p) for n, p in w.items()}
    for step, (x, y) in enumerate(seen):
        logits = x @ w["1.weight"].T + w["1.bias"]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        grads = {"1.weight": p.T @ x / len(y), "1.bias": p.mean(0)}
        for name, grad in grads.items():
            decayed = grad + 0.01 * w[name]
            v[name] = 0.9 * v[name] + decayed
            w[name] -= rate(config, step, 4) * (decayed + 0.9 * v[name])
    assert len(seen) == 4
    for name, parameter in model.named_parameters():
        assert np.allclose(parameter.detach().numpy(), w[name], atol=1e-6)


def test_epoch_size_fixes_the_number_of_steps(tmp_path):
    progress = Interrupting()
    fit(make_model(), DATA, replace(QUICK, epochs=2, epoch_size=100), tmp_path, progress)
    assert progress.labels == [("epoch 1/2", 6), ("epoch 2/2", 6)]
    assert progress.notes[0].startswith("loss ")
    assert all("validation " in note for note in progress.notes[6:])


def test_bf16_trains_but_weights_stay_f32(tmp_path):
    model, seen = make_model(), set()
    objective = Seeing(lambda x, y, out: seen.add(out.dtype))
    fit(model, DATA, replace(QUICK, epochs=1, precision="bf16"), tmp_path, objective=objective)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_model_comes_back_as_it_was_laid_out_and_in_evaluation_mode(uninterrupted, tmp_path):
    model = make_model()
    fit(model, DATA, replace(QUICK, epochs=1), tmp_path)
    assert all(p.is_contiguous() for p in model.parameters())
    assert not any(module.training for module in model.modules())


def test_no_epochs_leave_the_weights_alone(tmp_path):
    model = make_model()
    before = weights(model)
    assert fit(model, DATA, replace(QUICK, epochs=0), tmp_path).epochs == ()
    assert equal(weights(model), before)


def test_the_checkpoint_is_plain_safetensors_with_a_json_header(uninterrupted):
    with safe_open(uninterrupted[2] / LAST, "pt") as file:
        header = json.loads(file.metadata()["header"])
        names = set(file.keys())
    assert [epoch["loss"] for epoch in header["epochs"]] == [e.loss for e in uninterrupted[0].epochs]
    assert {"model.1.conv1.weight", "model.1.bn1.running_mean", "optimizer.momentum_buffer.model.1.fc.bias"} <= names


def test_tied_weights_survive_a_resume(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
            self.b.weight = self.a.weight
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.b(torch.relu(self.a(x.flatten(1)))))

    whole, resumed = Tied(), Tied()
    fit(whole, DATA, QUICK, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(Tied(), DATA, QUICK, tmp_path / "cut", Interrupting(7))
    fit(resumed, DATA, QUICK, tmp_path / "cut")
    assert equal(weights(whole), weights(resumed))
