import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.base import ArraySplit
from pipeline.models.resnet import resnet
from pipeline.training.batchnorm import recalibrate


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return ArraySplit(rng.normal(3, 2, (60, 2, 5, 5)).astype(np.float32), np.zeros(60, np.int64))


def test_statistics_are_those_of_the_data(split):
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(99)
    recalibrate(norm, split, batches=4, batch_size=15)
    batches = np.array_split(split.x[np.random.default_rng(0).permutation(60)], 4)
    assert np.allclose(norm.running_mean, split.x.mean((0, 2, 3)), atol=1e-5)
    expected = np.mean([b.var((0, 2, 3), ddof=1) for b in batches], 0)
    assert np.allclose(norm.running_var, expected, atol=1e-4)


def test_what_was_there_before_does_not_matter(split):
    a, b = (resnet(8, 4, in_channels=2) for _ in range(2))
    b.bn1.running_mean.fill_(1e6)
    b.bn1.running_var.fill_(1e-6)
    for model in (a, b):
        recalibrate(model, split, batches=3, batch_size=20)
    assert all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


def test_it_undoes_a_rescaled_convolution(split):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))
    x = torch.from_numpy(split.x)
    recalibrate(model, split, batches=4, batch_size=15)
    before = model.eval()(x)
    with torch.no_grad():
        model[0].weight *= 7
    assert not torch.allclose(model(x), before, atol=0.1)
    recalibrate(model, split, batches=4, batch_size=15)
    torch.testing.assert_close(model(x), before, atol=1e-4, rtol=1e-4)


def test_modes_momenta_and_weights_stay(split):
    model = resnet(8, 4, in_channels=2)
    model.train()
    model.layer2.eval()
    model.bn1.momentum = 0.3
    modes = [m.training for m in model.modules()]
    parameters = [p.clone() for p in model.parameters()]
    recalibrate(model, split, batches=2, batch_size=8)
    assert [m.training for m in model.modules()] == modes
    assert model.bn1.momentum == 0.3
    assert model.layer1[0].bn1.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))


def test_the_model_can_be_trained_afterwards(split):
    model = resnet(8, 4, in_channels=2)
    recalibrate(model, split, batches=2, batch_size=8)
    model.train()(torch.from_numpy(split.x)).sum().backward()
    assert model.bn1.num_batches_tracked == 3
    assert all(p.grad is not None for p in model.parameters())


class Counting(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.seen = norm, []

    def forward(self, x):
        self.seen.append(x[:, 0, 0, 0])
        return self.norm(x)


def test_no_sample_is_seen_twice_and_none_without_batchnorm(split):
    model = Counting(nn.BatchNorm2d(2))
    recalibrate(model, split, batches=100, batch_size=16)
    seen = torch.cat(model.seen)
    assert len(seen) == len(seen.unique()) == 48  # whole batches only
    for norm in (nn.GroupNorm(1, 2), nn.BatchNorm2d(2, track_running_stats=False)):
        model = Counting(norm)
        recalibrate(model, split)
        assert model.seen == []


def test_no_batches_keep_the_statistics(split):
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(7)
    recalibrate(norm, split, batches=0)
    assert norm.running_mean.tolist() == [7, 7]


def test_the_seed_chooses_the_samples(split):
    found = []
    for seed in (0, 0, 1):
        norm = nn.BatchNorm2d(2)
        recalibrate(norm, split, batches=1, batch_size=10, seed=seed)
        found.append(norm.running_mean)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
