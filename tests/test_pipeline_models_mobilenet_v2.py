import numpy as np
import onnx
import pytest
import torch
from torch import nn

from calibration.collect import collect
from calibration.observers.percentile import Percentile
from pipeline.exporting import to_onnx
from pipeline.models.mobilenet_v2 import InvertedResidual, mobilenet_v2
from pipeline.pruning import prune
from pipeline.training.onnx_graph import QuantizedGraph
from targets.plugins import make


def test_rows_are_inverted_residuals_with_linear_ends():
    blocks = list(mobilenet_v2().blocks)
    assert [type(block) for block in blocks] == [InvertedResidual] * 6
    for block in blocks[1:]:
        convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        inputs, inner, channels = convs[0].in_channels, convs[0].out_channels, convs[-1].out_channels
        assert (inner, convs[1].groups, convs[1].kernel_size) == (4 * inputs, inner, (3, 3))
        assert block.residual == (convs[1].stride == (1, 1) and inputs == channels)
        assert isinstance(list(block.modules())[-1], nn.BatchNorm2d)  # no activation where channels are few
    assert [block.residual for block in blocks] == [True, False, True, False, True, True]


def test_a_block_adds_its_input_where_shapes_allow():
    block = mobilenet_v2(width=0.5).blocks[2].eval()
    nn.init.zeros_(block.project[1].weight)
    x = torch.randn(2, 16, 7, 7, generator=torch.Generator().manual_seed(0))
    assert block.residual
    assert torch.equal(block(x), x)


def test_resolution_and_widths():
    model, shapes = mobilenet_v2(width=0.5, in_channels=1, classes=7), []
    for block in (model.stem, *model.blocks, model.head):
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    assert [s[1] for s in shapes] == [14, 14, 7, 7, 7, 7, 7, 7]
    assert all(s[0] % 8 == 0 for s in shapes)


def test_activations_stay_between_0_and_6():
    model, seen = mobilenet_v2(width=0.5), []
    for module in model.modules():
        if isinstance(module, nn.ReLU6):
            module.register_forward_hook(lambda _, __, out: seen.append((out.min(), out.max())))
    model(100 * torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert len(seen) == 13
    assert all(low >= 0 and high <= 6 for low, high in seen)


def test_start_weights_depend_on_the_seed_alone():
    a = mobilenet_v2(seed=3).state_dict()
    torch.manual_seed(99)
    b = mobilenet_v2(seed=3).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(mobilenet_v2(seed=4).fc.weight, a["fc.weight"])


def test_depthwise_convolutions_start_with_he_variance_of_their_own_inputs():
    weight = mobilenet_v2(width=4).blocks[-1].depthwise[0].weight
    assert weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)


def test_a_width_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="give a factor"):
        mobilenet_v2(width=0)


@pytest.fixture(scope="module")
def pruned():
    return prune(mobilenet_v2(width=0.5), torch.randn(1, 3, 28, 28), ratio=0.6, target="macs", min_width=2)


@pytest.fixture(scope="module")
def exported(pruned, tmp_path_factory):
    """Its float ONNX file, and samples."""
    path = tmp_path_factory.mktemp("mobilenet_v2") / "model.onnx"
    images = np.random.default_rng(0).standard_normal((8, 3, 28, 28)).astype(np.float32)
    to_onnx(pruned.model.eval(), images, path)
    return path, images


def test_it_prunes_everywhere(pruned):
    """Also where depthwise layers tie channels to their makers, and rows add them up."""
    assert 0.5 < 1 - pruned.macs_after / pruned.macs_before < 0.7
    assert not pruned.frozen
    assert pruned.proof.max_rel_error < 1e-4


@pytest.mark.parametrize("target", ["cpu", "mobile"])
def test_pruned_it_trains_in_int8(target, pruned, exported):
    """A gradient reaches every weight, through depthwise layers, clips at 6 and residual sums."""
    path, images = exported
    ranges = collect(path, [{"input": images}], Percentile())
    graph = QuantizedGraph(onnx.load(path), ranges, make(target, {}).scheme)
    graph(torch.from_numpy(images)).square().sum().backward()
    weights = [p for p in graph.parameters() if p.ndim > 1]
    assert len(weights) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in pruned.model.modules())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in weights)
