import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.mixed import Candidate, mixed

FEW = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 50)), min_size=1, max_size=8)


def candidates(pairs: list[tuple[float, float]]) -> list[Candidate]:
    return [Candidate(f"layer{i}", noise, cost) for i, (noise, cost) in enumerate(pairs)]


def additive(layers: list[Candidate]) -> Callable[[frozenset[str]], float]:
    """A model whose accuracy falls by the noise of every layer in int8."""
    return lambda names: -sum(layer.noise for layer in layers if layer.name not in names)


def cost(layers: list[Candidate], names: frozenset[str]) -> float:
    return sum(layer.cost for layer in layers if layer.name in names)


@given(FEW, st.floats(0, 1))
def test_the_cheapest_set_where_noise_adds_up(pairs, share):
    layers = candidates(pairs)
    judge = additive(layers)
    floor = share * judge(frozenset())
    found = mixed(layers, judge, floor, evaluations=1000)
    sets = (frozenset(c) for n in range(len(layers) + 1) for c in itertools.combinations([x.name for x in layers], n))
    best = min(cost(layers, names) for names in sets if judge(names) >= floor)
    assert found.met
    assert judge(found.excluded) == found.accuracy >= floor
    assert cost(layers, found.excluded) == best
    assert len(found.trail) <= 2 + 12 + len(layers) ** 2


@given(FEW, st.data())
def test_any_judge_whatever_the_noise_was_thought_to_be(pairs, data):
    layers = candidates(pairs)
    known: dict[frozenset[str], float] = {}

    def judge(names: frozenset[str]) -> float:
        assert names not in known, "asked twice"
        known[names] = data.draw(st.floats(0, 1))
        return known[names]

    floor = data.draw(st.floats(0, 1))
    evaluations = data.draw(st.integers(1, 60))
    found = mixed(layers, judge, floor, evaluations)
    assert found.accuracy == known[found.excluded]
    assert found.trail == tuple(known.items())
    assert len(known) <= max(14, evaluations)
    every = frozenset(layer.name for layer in layers)
    if found.met:
        assert found.accuracy >= floor
    else:
        assert found.excluded == every
        assert known[every] < floor
        assert known[frozenset()] < floor


@given(FEW, st.lists(st.integers(1, 60), min_size=8, max_size=8), st.floats(0, 1))
def test_no_layer_of_the_result_could_go_back(pairs, truths, share):
    """The noise was misjudged, but more in float is never worse."""
    layers = candidates(pairs)
    true = [Candidate(layer.name, truth, 0) for layer, truth in zip(layers, truths, strict=False)]
    judge = additive(true)
    floor = share * judge(frozenset())
    found = mixed(layers, judge, floor, evaluations=1000)
    assert found.met
    assert all(judge(found.excluded - {name}) < floor for name in found.excluded)


def test_many_layers_take_few_evaluations_and_one_bad_layer_is_found():
    noise = [1e-6] * 200
    noise[77] = 0.5
    layers = candidates([(n, 1 + i % 3) for i, n in enumerate(noise)])
    found = mixed(layers, additive(layers), -0.01)
    assert found.excluded == {"layer77"}
    assert len(found.trail) <= 14


def test_a_layer_of_no_known_noise_can_still_be_what_it_takes():
    layers = candidates([(0, 5), (3, 1), (2, 1)])
    found = mixed(layers, lambda names: float("layer0" in names), 1.0)
    assert found.excluded == {"layer0"}
    assert found.met


def test_nothing_to_choose_from():
    found = mixed([], lambda _: 0.5, 0.9)
    assert (found.excluded, found.met, found.trail) == (frozenset(), False, ((frozenset(), 0.5),))
    assert mixed([], lambda _: 0.9, 0.9).met


@pytest.mark.parametrize("wrong", [(-1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_candidates_that_make_no_sense(wrong):
    with pytest.raises(CalibrationError, match=r"'bad': noise .* must be 0 or more"):
        mixed([Candidate("bad", *wrong)], lambda _: 0.0, 1.0)
    with pytest.raises(CalibrationError, match="two candidates"):
        mixed([Candidate("a", 1, 1)] * 2, lambda _: 0.0, 1.0)
