import pytest
import torch
import torch.nn.functional as F
from pruning_nets import reading_only
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.pruning import prune
from pipeline.pruning.attributes import EXACT, attributes, changes
from pipeline.pruning.groups import structure
from pipeline.pruning.trace import capture, walk


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


class Sized(nn.Module):
    """A layer of 4 × 8 channels, seen as heads by the sizes given."""

    def __init__(self, heads: int, width: int, how: str) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, heads * width), nn.Linear(heads * width, 3)
        self.heads, self.total, self.how = heads, heads * width, how

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "product":
            x = x.view(2, self.heads, self.total // self.heads).relu().reshape(2, self.total)
        elif self.how == "multiple":
            x = x.view(2, self.total // 2, 2).relu().flatten(1)
        else:
            x = torch.cat([x[:, self.heads :].relu(), x[:, : self.heads]], 1)
        return self.head(x)


@pytest.mark.parametrize(
    ("how", "changed"),
    [("product", {"total"}), ("multiple", {"total"}), ("slices", {"heads"})],
)
def test_attributes_that_sizes_come_from_change_with_them(how: str, changed: set[str]) -> None:
    torch.manual_seed(0)
    model, x = Sized(4, 8, how).eval(), torch.randn(2, 6)
    result = prune(model, x)
    assert result.frozen == {}
    assert result.plan.attributes[""].keys() == changed
    assert result.model.a.out_features == 16
    assert result.proof.max_rel_error < 1e-4


class Part(nn.Module):
    """A width that the forward works out from the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 32), nn.Linear(32, 3)
        self.heads = 4

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).view(2, self.heads * 8).relu())


def test_an_attribute_that_is_part_of_a_size_shrinks_in_proportion() -> None:
    torch.manual_seed(0)
    result = prune(Part().eval(), torch.randn(2, 6))
    assert result.frozen == {}
    assert result.plan.attributes == {"": {"heads": 2}}


class Torn(nn.Module):
    """One attribute is the size of two layers that need not shrink together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.c, self.d = nn.Linear(8, 3), nn.Linear(8, 3)
        self.width = 8

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x).view(2, self.width)) + self.d(self.b(x).view(2, self.width))


def test_layers_whose_size_is_one_attribute_keep_one_width() -> None:
    torch.manual_seed(0)
    result = prune(Torn().eval(), torch.randn(2, 6), ratio={"a": 0.5, "b": 0.25})
    assert result.frozen == {}
    assert result.model.a.out_features == result.model.b.out_features == result.model.width < 8
    assert result.proof.holds


def test_an_attribute_that_would_need_two_values_is_left_alone() -> None:
    model = Torn().eval()
    captured = capture(model, torch.randn(2, 6))
    flow = walk(captured)
    found = structure(flow)
    alike = changes(flow, found.alive({"a": [0, 1], "b": [2, 3]}))
    assert attributes(model, alike, {Torn: EXACT}) == {"": {"width": 2}}
    torn = changes(flow, found.alive({"a": [0, 1], "b": [0, 1, 2]}))
    assert attributes(model, torn, {Torn: EXACT}) == {}


class Square(nn.Module):
    """As many heads as each is wide: only the number of heads changes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 4
        self.qkv, self.proj = nn.Linear(8, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj((((q @ k.mT) * 0.5).softmax(-1) @ v).transpose(1, 2).reshape(n, length, -1))


def test_heads_are_told_from_their_width_by_name_where_both_have_one_value() -> None:
    torch.manual_seed(0)
    result = prune(Square().eval(), torch.randn(2, 5, 8), ratio=0.5)
    assert result.frozen == {}
    assert (result.model.heads, result.model.width) == (2, 4)
