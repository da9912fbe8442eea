"""Every option of a training learns, and resumes bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import DATA, QUICK, Interrupting, equal, make_model, make_split, weights

from pipeline.errors import UserError
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import BEST, LAST, fit
from pipeline.training.objective import Objective, cross_entropy
from pipeline.training.optim import average
from pipeline.training.schedule import rate

ADAM = {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.05}
OPTIONS = {
    "adamw": ADAM,
    "step": {"schedule": "step", "milestones": (0.4, 0.6)},
    "linear": {"schedule": "linear"},
    "constant": {"schedule": "constant"},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "ema": {"ema": 0.7},
    "no momentum": {"momentum": 0.0},
    "all": {**ADAM, "mixup": 0.2, "cutmix": 1.0, "ema": 0.7, "label_smoothing": 0.1, "precision": "bf16"},
}


def resumes(config, folder, after):
    """Whether a run cut after some steps ends as one that was not, in weights and in every byte on disk."""
    whole, cut = make_model(), make_model()
    history = fit(whole, DATA, config, folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), DATA, config, folder / "cut", Interrupting(after))
    assert fit(cut, DATA, config, folder / "cut") == history
    same = [(folder / "whole" / name).read_bytes() == (folder / "cut" / name).read_bytes() for name in (LAST, BEST)]
    return equal(weights(whole), weights(cut)) and all(same)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("after", [6, 11])  # an epoch has 4 steps
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, option, after):
    assert resumes(replace(QUICK, **OPTIONS[option]), tmp_path, after)


def test_f16_scales_its_losses_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    """As on a GPU, but here, where torch computes in it too."""
    monkeypatch.setattr("pipeline.training.loop.resolve_dtype", lambda precision, device: torch.float16)
    assert resumes(replace(QUICK, precision="f16"), tmp_path, 6)


@pytest.mark.parametrize("option", ["adamw", "mixup", "cutmix", "ema", "step"])
def test_every_option_learns(tmp_path, option):
    model = make_model()
    fit(model, DATA, replace(QUICK, epochs=12, **OPTIONS[option]), tmp_path)
    assert evaluate(model, DATA.test).top1 > 0.9


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_makes_a_difference(tmp_path, option):
    plain, other = make_model(), make_model()
    fit(plain, DATA, QUICK, tmp_path / "plain")
    fit(other, DATA, replace(QUICK, **OPTIONS[option]), tmp_path / "other")
    assert not equal(weights(plain), weights(other))


class Recording(Objective):
    """Cross entropy that keeps each batch, in double precision."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, model, x, y):
        self.seen.append((x.double().numpy().reshape(len(x), -1).copy(), y.double().numpy().copy()))
        return cross_entropy(model(x), y)


def gradients(w, x, y):
    """Of the mean cross entropy of a linear classifier, with labels or shares."""
    logits = x @ w["1.weight"].T + w["1.bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (p - (y if y.ndim == 2 else np.eye(4)[y.astype(int)])) / len(y)
    return {"1.weight": delta.T @ x, "1.bias": delta.sum(0)}


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def test_steps_equal_a_slow_adamw_on_mixed_labels(tmp_path):
    """Loshchilov & Hutter, ICLR 2019, algorithm 2, in double precision."""
    config = replace(QUICK, **ADAM, epochs=2, mixup=0.4, schedule="linear")
    model, objective = linear(), Recording()
    w = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    fit(model, replace(DATA, validation=make_split(8, 9)), config, tmp_path, objective=objective)
    last = load_file(tmp_path / LAST)
    m, v = ({n: np.zeros_like(p) for n, p in w.items()} for _ in range(2))
    for step, (x, y) in enumerate(objective.seen):
        lr = rate(config, step, 4)
        for name, grad in gradients(w, x, y).items():
            w[name] = w[name] - lr * 0.05 * w[name]
            m[name] = 0.9 * m[name] + 0.1 * grad
            v[name] = 0.999 * v[name] + 0.001 * grad**2
            first, second = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            w[name] = w[name] - lr * first / (np.sqrt(second) + 1e-8)
    assert len(objective.seen) == 8
    for name, expected in w.items():
        assert np.allclose(last[f"model.{name}"].numpy(), expected, atol=1e-5)


def test_what_is_kept_is_the_average_of_the_weights_after_each_step(tmp_path):
    model, every = linear(), []

    class Watching(Recording):
        def forward(self, model, x, y):
            every.append(weights(model))  # before this step: after the one before
            return super().forward(model, x, y)

    config = replace(QUICK, epochs=1, ema=0.8)
    fit(model, DATA, config, tmp_path, objective=Watching())
    last = load_file(tmp_path / LAST)
    every.append({name.removeprefix("model."): t for name, t in last.items() if name.startswith("model.")})
    for name, kept in model.state_dict().items():
        expected = every[1][name].double().numpy()
        for after in every[2:]:
            expected = 0.8 * expected + 0.2 * after[name].double().numpy()
        assert np.allclose(kept.numpy(), expected, atol=1e-6)
        assert not torch.equal(kept, every[-1][name])


def test_validation_is_of_the_average(tmp_path):
    model = make_model()
    history = fit(model, DATA, replace(QUICK, ema=0.7), tmp_path)
    assert evaluate(model, DATA.validation) == history.epochs[history.best].validation


def test_whole_numbers_are_copied_and_statistics_averaged():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.register_buffer("index", torch.tensor([5, 7, 123456789]))

    model = Counting()
    kept = average(model, 0.9)
    for value in (1.0, 2.0):
        model.norm.running_mean.fill_(value)
        kept.update_parameters(model)
    assert kept.module.index.tolist() == [5, 7, 123456789]
    assert torch.allclose(kept.module.norm.running_mean, torch.tensor(1.1))


def test_mixed_labels_need_an_output_per_class(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    fit(model, DATA, replace(QUICK, epochs=1), tmp_path / "plain")
    with pytest.raises(UserError, match=r"^mixed labels are for 4 classes, but the model's output is \(16, 7\)"):
        fit(model, DATA, replace(QUICK, epochs=1, mixup=0.2), tmp_path / "mixed")


def test_f16_is_refused_without_a_gpu(tmp_path):
    with pytest.raises(UserError, match="precision: f16 trains on a CUDA GPU only"):
        fit(make_model(), DATA, replace(QUICK, precision="f16"), tmp_path)
