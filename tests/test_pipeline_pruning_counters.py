import pytest
import torch
import torch.nn.functional as F
from pruning_nets import MobileNetV2, ResNet
from torch import Tensor, nn

from pipeline.pruning import count


@pytest.mark.parametrize(("n", "macs", "params"), [(3, 40.55, 0.270), (9, 125.49, 0.853), (18, 252.89, 1.728)])
def test_cifar_resnets_match_their_closed_forms(n: int, macs: float, params: float) -> None:
    # a convolution costs the same in every stage: half the side is a quarter, twice the width is four times
    stage = 16 * 16 * 9 * 32 * 32
    exact = 3 * 16 * 9 * 32 * 32 + 2 * n * stage + 2 * ((2 * n - 1) * stage + stage // 2) + 640
    counts = count(ResNet(n, "A"), torch.randn(1, 3, 32, 32))
    assert counts.macs == exact
    assert counts.macs / 1e6 == pytest.approx(macs, abs=0.005)
    assert counts.params / 1e6 == pytest.approx(params, abs=0.0005)
    assert sum(counts.per_layer.values()) == counts.macs


def test_layers_are_named_and_depthwise_counts_its_own_weight() -> None:
    per_layer = count(MobileNetV2(), torch.randn(1, 3, 32, 32)).per_layer
    assert per_layer["features.0.0"] == 16 * 16 * 3 * 16 * 9
    assert per_layer["features.2.conv.1.0"] == 8 * 8 * 48 * 9
    assert per_layer["classifier.1"] == 64 * 10


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.line = nn.Conv1d(6, 8, 3, groups=2)
        self.token = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token(self.line(self.up(x).flatten(2)).transpose(1, 2))
        return self.token(x) @ x.transpose(1, 2)


def test_transposed_grouped_shared_and_weightless_products() -> None:
    counts = count(Odd(), torch.randn(1, 4, 3, 3))
    assert counts.per_layer == {
        "up": 9 * 4 * 6 * 4,
        "line": 34 * 8 * 3 * 3,
        "token": 2 * 34 * 64,
        "matmul": 34 * 34 * 8,
    }


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.cube = nn.Conv3d(2, 4, 2, groups=2)
        self.up = nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2)

    def forward(self, x: Tensor, cube: Tensor) -> tuple[Tensor, ...]:
        steps, _ = self.lstm(x)
        scores = torch.einsum("bqd,bkd->bqk", steps, steps)
        seen = F.scaled_dot_product_attention(steps[:, None], steps[:, None], x[:, None])
        return scores, seen, self.cube(cube), self.up(x.transpose(1, 2))


@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # of an LSTM, by torch.export
def test_products_match_their_closed_forms() -> None:
    per_layer = count(Products(), (torch.randn(2, 3, 6), torch.randn(2, 2, 3, 3, 3))).per_layer
    assert per_layer == {
        "lstm": 2 * 3 * 4 * 5 * (6 + 5),
        "einsum": 2 * 3 * 3 * 5,
        "scaled_dot_product_attention": 2 * 3 * 3 * (5 + 6),
        "cube": 2 * 8 * 4 * 1 * 8,
        "up": 2 * 3 * 6 * 2 * 3,
    }
