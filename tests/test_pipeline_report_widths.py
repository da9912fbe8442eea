from xml.etree import ElementTree as ET

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.pruning import count, prune
from pipeline.pruning.layers import compare, layers, widths
from pipeline.report.layers import FIGURE, Cut, Layer, read, share
from pipeline.report.sections import sections
from pipeline.report.widths import WIDTH, picture

SVG = "{http://www.w3.org/2000/svg}"


def layer(name: str, width: int = 8) -> Layer:
    return Layer(name, width, width // 2, 100 * width, 50 * width)


RESNET = Cut(
    tuple(layer(n) for n in ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "fc")),
    1000,
    400,
)

any_layer = st.builds(Layer, st.text(), *[st.integers(0, 5000)] * 2, *[st.integers(0, 10**12)] * 2)
any_cut = st.builds(Cut, st.lists(any_layer, max_size=30).map(tuple), st.integers(0, 10**9), st.integers(0, 10**9))


@given(any_cut, st.text())
def test_any_cut_gives_a_readable_picture_with_every_bar_on_the_page(cut: Cut, title: str) -> None:
    root = ET.fromstring(picture(cut, title))  # noqa: S314, our own output
    height = float(root.attrib["height"])
    groups = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]
    assert len(groups) == len(cut.layers)
    for group in groups:
        assert 0 < float(group.attrib["transform"].split()[1].rstrip(")")) < height
        for bar in group.iter(f"{SVG}rect"):
            assert float(bar.attrib["x"]) >= 0
            assert float(bar.attrib["width"]) > 0
            assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= WIDTH


@given(any_cut)
def test_equal_input_gives_equal_bytes(cut: Cut) -> None:
    assert picture(cut, "a") == picture(Cut(tuple(cut.layers), *cut.params), "a")


def test_names_are_text_and_never_markup() -> None:
    evil = '</text><script>alert("1")</script>&\x00\x1b'
    drawn = picture(Cut((layer(evil),), 2, 1), evil)
    assert "<script" not in drawn
    titles = [t.text for t in ET.fromstring(drawn).iter(f"{SVG}title")]  # noqa: S314
    assert any('<script>alert("1")</script>&\ufffd\ufffd' in (t or "") for t in titles)


def test_bars_are_to_scale() -> None:
    cut = Cut((Layer("a", 64, 16, 1000, 250), Layer("b", 32, 32, 500, 250)), 2, 1)
    bars = {
        g.findtext(f"{SVG}title", "")[0]: [float(r.attrib["width"]) for r in g.iter(f"{SVG}rect")]
        for g in ET.fromstring(picture(cut, "net")).iter(f"{SVG}g")  # noqa: S314
        if g.find(f"{SVG}title") is not None
    }
    (a_width, a_kept, a_macs, a_left), (b_width, b_kept, b_macs, b_left) = bars["a"], bars["b"]
    assert (a_kept, b_kept) == pytest.approx(((a_width + 1) / 4, (a_width + 1) / 2), abs=0.2)
    assert (a_left, b_left) == pytest.approx(((a_macs + 1) / 4, (a_macs + 1) / 4), abs=0.2)
    assert (b_width, b_macs) == pytest.approx((a_width / 2, a_macs / 2), abs=1)


def test_title_and_totals_are_told() -> None:
    drawn = picture(RESNET, "ResNet <20>")
    assert "ResNet &lt;20&gt;" in drawn
    assert "multiply-accumulates 4.80k → 2.40k (−50.0%)" in drawn
    assert "parameters 1.00k → 400 (−60.0%)" in drawn
    assert "prefers-color-scheme: dark" in drawn


def test_layers_stand_under_their_stage() -> None:
    found = sections(RESNET.layers)
    assert [(s.prefix, len(s.layers)) for s in found] == [("conv1", 1), ("layer1", 2), ("layer2", 2), ("fc", 1)]
    assert found[1].label(found[1].layers[0]) == "0.conv1"


def test_a_container_that_holds_most_is_split_and_products_stay_with_their_block() -> None:
    names = [f"net.blocks.{i}.{part}" for i in range(6) for part in ("qkv", "proj", "fc")]
    mixed = [
        item for i, n in enumerate(names) for item in (layer(n), *([layer(f"matmul_{i}", 0)] if i % 3 == 0 else []))
    ]
    found = sections([layer("net.stem"), *mixed, layer("net.head")])
    assert [s.prefix for s in found] == ["net.stem", *(f"net.blocks.{i}" for i in range(6)), "net.head"]
    assert all([layer.name.split("_")[0] for layer in s.layers][1] == "matmul" for s in found[1:-1])


def test_a_plain_stack_is_one_section() -> None:
    assert [s.prefix for s in sections([layer(f"features.{i}") for i in range(13)])] == ["features"]


@given(st.lists(any_layer, max_size=40))
def test_sections_hold_every_layer_once(given_layers: list[Layer]) -> None:
    held = [layer for s in sections(given_layers) for layer in s.layers]
    assert sorted(held, key=repr) == sorted(given_layers, key=repr)


def test_shares() -> None:
    assert [share(*pair) for pair in ((200, 100), (100, 100), (100, 150), (0, 0))] == ["−50.0%", "0%", "+50.0%", ""]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 16, 2, stride=2, groups=2)
        self.conv = nn.Conv2d(16, 12, 3)
        self.embedding = nn.Embedding(3, 5)
        self.head = nn.Linear(12, 4)
        self.matrix = nn.Parameter(torch.ones(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.conv(self.up(x)).mean((2, 3)))
        return x @ nn.functional.linear(x, self.matrix)[:, :4].T


def test_widths_are_output_channels_under_the_names_that_counts_use() -> None:
    model = Net()
    found = widths(model)
    assert found == {"matrix": 6, "up": 16, "conv": 12, "embedding": 3, "head": 4}
    assert set(found) - {"embedding"} <= set(count(model, torch.randn(2, 8, 4, 4)).per_layer)


def test_a_pruned_model_compared_with_the_original() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 5))
    x = torch.randn(1, 3, 8, 8)
    cut = compare(model, prune(model, x, ratio=0.5, round_to=1).model, x)
    assert cut.layers == (
        Layer("0", 8, 4, 36 * 8 * 27, 36 * 4 * 27),
        Layer("2", 16, 8, 16 * 16 * 72, 16 * 8 * 36),
        Layer("4", 5, 5, 5 * 256, 5 * 128),
    )
    assert cut.params[0] == sum(p.numel() for p in model.parameters())
    assert read({FIGURE: cut.figure()}) == cut


def test_a_layer_that_is_gone_has_nothing_left() -> None:
    assert layers({"a": 5, "b": 7}, {"a": 5}, {"a": 2, "b": 3}, {"a": 2}) == (
        Layer("a", 2, 2, 5, 5),
        Layer("b", 3, 0, 7, 0),
    )
