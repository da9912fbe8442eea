import pytest
import torch
from torch import nn

from pipeline.models.resnet import resnet, resnet20


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def macs(model, x):
    """Count MACs of convolutions and linear layers with hooks, from the shapes that really flow."""
    total = 0

    def count(module, _, out):
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()(x)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.55), (56, 125.49)])
def test_macs_are_the_papers(depth, millions):
    # He et al.'s networks have parameter-free shortcuts; ours add two 1x1 projections.
    projections = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    found = macs(resnet(depth), torch.zeros(1, 3, 32, 32))
    assert (found - projections) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("depth", "thousands"), [(20, 270), (56, 853)])
def test_parameters_are_the_papers(depth, thousands):
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert (parameters(resnet(depth)) - projections) / 1e3 == pytest.approx(thousands, abs=0.5)


def test_resolution_halves_where_width_doubles():
    model, shapes = resnet20(width=8, in_channels=1), []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert shapes == [(8, 28, 28), (16, 14, 14), (32, 7, 7)]


def test_no_convolution_before_a_batchnorm_has_a_bias():
    assert all(m.bias is None for m in resnet20().modules() if isinstance(m, nn.Conv2d))


def test_start_weights_depend_on_the_seed_alone():
    a = resnet20(seed=3).state_dict()
    torch.manual_seed(99)
    b = resnet20(seed=3).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(resnet20(seed=4).conv1.weight, a["conv1.weight"])


def test_convolutions_start_with_he_variance():
    weight = resnet20(width=64).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("depth", [2, 9, 18, 34])
def test_depths_that_do_not_exist_are_refused(depth):
    with pytest.raises(ValueError, match="6n \\+ 2"):
        resnet(depth)
