import pytest
import torch
import torch.nn.functional as F
from pruning_nets import reading_only
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.pruning import prune


class Stored(nn.Module):
    """The forward reads a shape from an attribute."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.head(F.avg_pool2d(x, 2).view(self.shape))


@pytest.mark.parametrize("shape", [(2, 256), (-1, 256)])
def test_a_shape_in_an_attribute_is_given_its_new_size(shape: tuple[int, ...]) -> None:
    model = Stored(shape).eval()
    x = torch.randn(2, 3, 8, 8)
    result = prune(model, x, round_to=4)
    assert result.frozen == {}
    assert result.plan.attributes == {"": {"shape": (shape[0], 128)}}
    assert result.model.shape == (shape[0], 128)
    assert model.shape == shape
    assert_close(result.model(x), reading_only(model, result.plan)(x), rtol=1e-4, atol=1e-5)


class Fixed(Stored):
    """The forward holds a width that no surgery on modules reaches."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.head(F.avg_pool2d(x, 2).view(-1, 256))


def test_a_size_written_into_the_forward_freezes_only_what_it_concerns() -> None:
    model = Fixed(()).eval()
    x = torch.randn(2, 3, 8, 8)
    result = prune(model, x, round_to=4)
    assert result.frozen == {"proof": ("c.weight",)}
    assert [g.name for g in result.plan.groups] == ["a", "b"]
    assert_close(result.model(x), reading_only(model, result.plan)(x), rtol=1e-4, atol=1e-5)
    assert result.achieved == pytest.approx(16 / 48)
