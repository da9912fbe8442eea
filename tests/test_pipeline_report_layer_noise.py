from xml.etree import ElementTree

from calibration.kernels import Layer
from calibration.sensitivity import LayerCost, Sensitivity
from pipeline.report.layer_noise import WIDTH, picture

NOISE = {"stem": 1e-2, "quiet": 1e-12, "exact": 0.0, "a<b>&\x00" + "x" * 80: 1e-4, "ruined": float("inf")}
FOUND = Sensitivity(
    "alone", 16, {"y": 2e-2}, tuple(LayerCost(Layer((n, f"{n}.add"), "Conv", 1000), {"y": v}) for n, v in NOISE.items())
)
SVG = "{http://www.w3.org/2000/svg}"


def test_every_layer_has_a_bar_that_grows_with_its_noise() -> None:
    tree = ElementTree.fromstring(picture(FOUND, "net & <co>", frozenset({"stem"})))  # noqa: S314 - our own
    rows = tree.findall(f"{SVG}g")
    lengths = [float(row.find(f"{SVG}rect").attrib["width"]) for row in rows]
    assert lengths[1] == lengths[2] == 0
    assert 0 < lengths[3] < lengths[0] < lengths[4]
    assert [row.findall(f"{SVG}text")[1].text for row in rows[:3]] == ["20.0 dB", "120.0 dB", "exact"]
    assert [row.find(f"{SVG}rect").attrib["class"] for row in rows] == ["float", "bar", "bar", "bar", "bar"]
    assert all(float(row.findall(f"{SVG}text")[1].attrib["x"]) < WIDTH - 24 for row in rows)
    assert tree.findall(f"{SVG}text")[0].text == "net & <co>"
    assert "all in int8: 17.0 dB" in tree.findall(f"{SVG}text")[1].text


def test_equal_input_gives_equal_text() -> None:
    assert picture(FOUND, "net") == picture(FOUND, "net")
    assert "orange" not in picture(FOUND, "net")
