from itertools import pairwise

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from pipeline.training.config import Training
from pipeline.training.schedule import rate

PER_EPOCH = 5


def of_torch(make, steps, lr):
    """The rates that a scheduler of torch gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        ("cosine", lambda o: torchs.CosineAnnealingLR(o, 40)),
        ("linear", lambda o: torchs.LinearLR(o, 1.0, 0.0, 40)),
        ("step", lambda o: torchs.MultiStepLR(o, [15, 30], gamma=0.2)),
        ("constant", lambda o: torchs.ConstantLR(o, 1.0, 1)),
    ],
)
def test_after_the_warm_up_rates_are_those_of_torch(schedule, make):
    config = Training(epochs=10, lr=0.4, warmup=2, schedule=schedule, milestones=(0.5, 0.8), gamma=0.2)
    rates = [rate(config, step, PER_EPOCH) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx(of_torch(make, 40, 0.4), abs=1e-9)


def test_the_cosine_falls_from_the_peak_to_nearly_zero():
    rates = [rate(Training(epochs=10, lr=0.4, warmup=2), step, PER_EPOCH) for step in range(50)]
    assert max(rates) == rates[9] == rates[10] == 0.4
    assert 0 < rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_without_a_warm_up_the_first_step_is_the_peak():
    assert rate(Training(epochs=1, lr=0.3, warmup=0), 0, 4) == 0.3


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_a_run_shorter_than_its_warm_up_only_warms_up(schedule):
    config = Training(epochs=1, lr=1.0, warmup=3, schedule=schedule)
    assert rate(config, 3, 4) == pytest.approx(4 / 12)
