import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.base import ArraySplit
from pipeline.models.resnet import resnet
from pipeline.training.evaluate import evaluate, predict

SPLIT = ArraySplit(
    np.random.default_rng(0).normal(size=(23, 1, 8, 8)).astype(np.float32), np.arange(23, dtype=np.int64) % 4
)


def test_the_score_does_not_depend_on_the_batch_size():
    model = resnet(8, 4, in_channels=1, classes=4)
    whole = evaluate(model, SPLIT, batch_size=23)
    parts = evaluate(model, SPLIT, batch_size=5)
    assert whole.n == parts.n == 23
    assert whole.top1 == parts.top1
    assert whole.loss == pytest.approx(parts.loss, abs=1e-5)


def test_the_score_equals_one_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    w, b = model[1].weight.detach().numpy(), model[1].bias.detach().numpy()
    logits = SPLIT.x.reshape(23, -1) @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    score = evaluate(model, SPLIT)
    assert score.loss == pytest.approx(-np.log(p[np.arange(23), SPLIT.y]).mean(), abs=1e-5)
    assert score.top1 == pytest.approx((p.argmax(1) == SPLIT.y).mean())


def test_dropout_is_off_and_the_mode_comes_back():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4))
    model[2].eval()
    first = predict(model, SPLIT)
    assert np.array_equal(first, predict(model, SPLIT))
    assert [m.training for m in model] == [True, True, False]
    assert (first.shape, first.dtype) == ((23, 4), np.float32)


def test_the_mode_comes_back_after_an_error():
    model = nn.Linear(7, 4)
    with pytest.raises(RuntimeError):
        predict(model, SPLIT)
    assert model.training
    assert torch.is_grad_enabled()
