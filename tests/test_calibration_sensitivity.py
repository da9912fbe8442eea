import json
import math
from functools import partial

import numpy as np
import pytest
from calibration_nets import FUSING, SCHEMES, calibrated, model, node, resnet, run, samples, sqnr_db

from calibration.kernels import layers, weighted_ops
from calibration.placement import place
from calibration.runs import Comparison, compare, decibels, opened, size
from calibration.sensitivity import Question, sensitivity
from targets.base import Int8Scheme


def placing(made, scheme, n=8):
    ranges = calibrated(made, n)
    return lambda exclude: place(made, ranges, scheme, exclude=exclude)


def calls(n=6, seed=3):
    return [{"x": sample[None]} for sample in samples(n, seed=seed)]


@SCHEMES
def test_layers_are_what_has_weights_with_the_adds_that_ride_on_it(scheme):
    made = resnet()
    found = layers(made, place(made, calibrated(made), scheme), scheme)
    assert {layer.name: layer.ops[1:] for layer in found} == {
        "Conv_stem": (),
        "Conv_a1": (),
        "Conv_a2": ("Add_a.add",),
        "Conv_b1": (),
        "Conv_b2": ("Add_b.add",),  # computed last: it adds the other on its accumulator
        "Conv_short": (),
        "Gemm_y": (),
    }
    macs = {layer.name: layer.macs for layer in found}
    assert macs["Conv_stem"] == 16 * 16 * 16 * 3 * 9
    assert macs["Conv_short"] == 4 * 4 * 32 * 16
    assert macs["Gemm_y"] == 32 * 32


def test_layers_without_weights_stand_alone():
    scheme = Int8Scheme(joined=("Add", "MaxPool"), quantize_outputs=True)
    made = resnet()
    found = {layer.name: layer for layer in layers(made, place(made, calibrated(made), scheme), scheme)}
    assert found["MaxPool_pool"].ops == ("MaxPool_pool",)
    assert found["MaxPool_pool"].macs == 0
    assert [op.name for op in weighted_ops(made, scheme.weighted)] == [n for n in found if n != "MaxPool_pool"]


@SCHEMES
@pytest.mark.parametrize("mode", ["alone", "rest"])
def test_the_noise_of_every_layer_is_what_running_that_model_gives(scheme, mode):
    made, x = resnet(), samples(6, seed=3)
    placer = placing(made, scheme)
    found = sensitivity(made, scheme, placer, calls(), Question(mode))
    assert (found.mode, found.samples) == (mode, 6)
    every = [op for cost in found.layers for op in cost.layer.ops]
    exact = run(made, x)
    assert sqnr_db(exact, run(placer(()).model, x)) == pytest.approx(decibels(found.whole["y"]), abs=0.2)
    for cost in found.layers:
        left = [op for op in every if op not in cost.layer.ops] if mode == "alone" else cost.layer.ops
        given = run(placer(left).model, x)
        assert decibels(cost.noise["y"]) == pytest.approx(sqnr_db(exact, given), abs=0.2)


def test_noise_of_single_layers_adds_up_to_about_the_noise_of_all():
    made = resnet()
    found = sensitivity(made, FUSING, placing(made, FUSING), calls(16))
    assert 0.5 < sum(cost.total for cost in found.layers) / found.whole["y"] < 2


def test_a_layer_that_int8_ruins_stands_out():
    """Its weights hold one large value per channel, so that the others round to nothing."""
    rng = np.random.default_rng(0)
    good = rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)
    bad = good.copy()
    bad[:, 0] = 60.0
    nodes = [node("Conv", ["x", "w1"], "a"), node("Conv", ["a", "w2"], "b"), node("Conv", ["b", "w3"], "y")]
    made = model(nodes, {"w1": good, "w2": bad, "w3": good}, (1, 8, 4, 4))
    feeds = [{"x": s[None]} for s in samples(4, (8, 4, 4)) * np.array([1e-3, *[1] * 7])[:, None, None]]
    feeds = [{"x": f["x"].astype(np.float32)} for f in feeds]
    found = sensitivity(made, FUSING, placing(made, FUSING, 4), feeds)
    assert max(found.layers, key=lambda cost: cost.total).layer.name == "Conv_b"


def test_a_metric_is_asked_about_every_model_and_progress_is_told():
    made, told = resnet(), []
    x = samples(8, seed=4)
    top = run(made, x).argmax(1)

    def agreement(runs):
        return float(np.mean([runs({"x": s[None]})["y"].argmax(1)[0] == t for s, t in zip(x, top, strict=True)]))

    question = Question(metric=agreement)
    found = sensitivity(made, FUSING, placing(made, FUSING), calls(2), question, lambda *step: told.append(step))
    assert found.metric_float == 1.0
    assert all(0.5 <= cost.metric <= 1 for cost in found.layers)
    assert told == [(i + 1, 9) for i in range(9)]


def test_json_holds_all_of_it_and_no_infinity(tmp_path):
    made = resnet()
    found = sensitivity(made, FUSING, placing(made, FUSING), calls(1))
    found.save(tmp_path / "s.json")
    told = json.loads((tmp_path / "s.json").read_text())
    assert told["schema"] == "edgesmith.int8_sensitivity/1"
    assert told["whole"] == found.whole
    assert [row["layer"]["ops"][0] for row in told["layers"]] == [cost.layer.name for cost in found.layers]
    assert [row["noise"]["y"] for row in told["layers"]] == [cost.noise["y"] for cost in found.layers]


def test_a_comparison_counts_noise_agreement_and_samples():
    both = Comparison()
    both.add({"y": np.array([[1.0, 0.0]]), "n": np.array([3])}, {"y": np.array([[0.0, 0.5]]), "n": np.array([3])}, 1)
    both.add({"y": np.array([[1.0, 0.0]]), "n": np.array([4])}, {"y": np.array([[1.0, 0.0]]), "n": np.array([4])}, 1)
    found = both.result()
    assert found.noise == {"y": pytest.approx(1.25 / 2), "n": 0.0}
    assert found.agreement == {"y": 0.5}
    assert (found.samples, found.worst) == (2, pytest.approx(0.625))
    assert found.sqnr_db()["n"] == math.inf


def test_outputs_of_another_shape_or_of_nothing_but_zeros():
    both = Comparison()
    both.add({"boxes": np.ones((3, 4)), "zero": np.zeros(2)}, {"boxes": np.ones((2, 4)), "zero": np.ones(2)}, 1)
    found = both.result()
    assert found.noise == {"boxes": 1.0, "zero": math.inf}
    assert found.agreement == {}


def test_comparing_runs_call_by_call():
    made = resnet()
    seen = []
    with opened(made) as one, opened(placing(made, FUSING)(()).model, threads=1) as other:
        found = compare(one, other, calls(3), partial(seen.append, 1))
    assert found.samples == len(seen) == 3
    assert 20 < found.sqnr_db()["y"] < 60
    assert size({"scale": np.float32(1), "x": np.zeros((5, 2))}) == 5
