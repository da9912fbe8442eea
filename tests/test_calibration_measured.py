"""The search for the fastest placement, with devices that are functions: nothing here is timed."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.measured import ALL_INT8, Floats, Found, Judge, Rules, Trial, measured
from calibration.parts import Part


@dataclass(frozen=True)
class Ratio:
    value: float
    low: float
    high: float


def around(value: float, width: float) -> Ratio:
    return Ratio(value, value / (1 + width), value * (1 + width))


@dataclass
class Device:
    """Ops with a time in int8 and one in float, a cost for each border between neighbours, and intervals so wide."""

    int8: tuple[float, ...]
    float_: tuple[float, ...]
    border: float = 0.0
    width: float = 0.005
    asked: list[tuple[Floats, Floats, int]] = field(default_factory=list)

    @property
    def parts(self) -> list[Part]:
        return [Part(f"p{i}", frozenset({f"op{i}"})) for i in range(len(self.int8))]

    @property
    def every(self) -> Floats:
        return frozenset(f"op{i}" for i in range(len(self.int8)))

    def time(self, floats: Floats) -> float:
        sides = [f"op{i}" in floats for i in range(len(self.int8))]
        borders = sum(a != b for a, b in itertools.pairwise(sides))
        times = (f if side else q for side, q, f in zip(sides, self.int8, self.float_, strict=True))
        return sum(times) + self.border * borders

    def race(self, floats: Floats, against: Floats, repetition: int) -> Ratio:
        assert (floats, against, repetition) not in self.asked, "timed twice"
        self.asked.append((floats, against, repetition))
        return around(self.time(floats) / self.time(against), self.width)


TIMES = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=8)


def device(pairs: list[tuple[int, int]], **kwargs: float) -> Device:
    return Device(tuple(float(q) for q, _ in pairs), tuple(float(f) for _, f in pairs), **kwargs)


@given(TIMES)
def test_every_part_is_where_it_is_faster_if_parts_are_independent(pairs: list[tuple[int, int]]) -> None:
    made = device(pairs, width=1e-6)
    found = measured(made.parts, made.race, rules=Rules(gain=0.0, races=10_000))
    best = sum(min(pair) for pair in pairs)
    assert made.time(found.floats) == best or (found.outcome == "float" and best == made.time(made.every))
    assert found.complete


@given(TIMES, st.floats(0, 20), st.floats(0, 0.2), st.integers(2, 40))
def test_what_is_kept_is_faster_than_float_whatever_the_limit(
    pairs: list[tuple[int, int]], border: float, width: float, races: int
) -> None:
    made = device(pairs, border=border, width=width)
    found = measured(made.parts, made.race, rules=Rules(races=races))
    if found.outcome == "float":
        assert found.floats == made.every
        assert found.ratio is None
    else:
        assert found.ratio is not None
        assert found.ratio.high < 1
        assert made.time(found.floats) < made.time(made.every)
        assert (found.outcome == "int8") == (found.floats == ALL_INT8)
    assert len(found.trail) <= races + 2  # the comparisons with float are always made


@given(TIMES, st.data())
def test_any_answers_end_in_something_faster_than_float_and_above_the_floor(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    made = device(pairs)
    accuracies: dict[Floats, float] = {}

    def race(floats: Floats, against: Floats, repetition: int) -> Ratio:
        return around(data.draw(st.floats(0.1, 3)), data.draw(st.floats(0, 0.5)))

    def judge(floats: Floats) -> float:
        assert floats not in accuracies, "judged twice"
        accuracies[floats] = data.draw(st.floats(0, 1))
        return accuracies[floats]

    floor = data.draw(st.floats(0, 1))
    recover = data.draw(st.sampled_from([None, lambda costs: made.parts[0].ops, lambda costs: None]))
    found = measured(made.parts, race, judge, Rules(floor, races=30), recover)
    if found.outcome in ("int8", "mixed"):
        assert accuracies[found.floats] >= floor
        assert found.accuracy == accuracies[found.floats]
        assert found.ratio is not None
        assert found.ratio.high < 1
    else:
        assert found.floats == made.every
    assert (found.outcome == "unreached") == (
        accuracies[ALL_INT8] < floor and made.every in accuracies and accuracies[made.every] < floor
    )


@given(TIMES, st.floats(0, 10), st.integers(0, 60))
@example(pairs=[(3, 1), (50, 49), (50, 49)], border=0.0, stop=0)  # a gain too small to keep, looked at once
def test_it_resumes_with_what_was_timed_and_finds_the_same(
    pairs: list[tuple[int, int]], border: float, stop: int
) -> None:
    known: dict[tuple[Floats, Floats, int], Ratio] = {}

    def search(made: Device, allowed: int) -> Found:
        def race(*key: Floats | int) -> Ratio:
            if key not in known:
                if len(made.asked) == allowed:
                    raise KeyboardInterrupt
                known[key] = made.race(*key)
            return known[key]

        return measured(made.parts, race)

    whole = measured(device(pairs, border=border).parts, device(pairs, border=border).race)
    try:
        search(device(pairs, border=border), stop)
    except KeyboardInterrupt:
        assert len(known) == stop
    timed = len(known)
    resumed = device(pairs, border=border)
    assert search(resumed, 10_000) == whole
    assert len(resumed.asked) == len(whole.trail) - timed
    again = device(pairs, border=border)
    assert search(again, 0) == whole


def test_a_gain_that_may_be_chance_or_is_small_is_not_taken() -> None:
    noisy = Device((10.0, 10.0), (9.5, 30.0), width=0.05)
    assert measured(noisy.parts, noisy.race).outcome == "int8"
    small = Device((10.0, 10.0), (9.9, 30.0), width=1e-4)
    found = measured(small.parts, small.race)
    assert found.outcome == "int8"
    assert "faster by less than 1%" in [trial.why for trial in found.trail]
    assert measured(small.parts, Device(small.int8, small.float_, width=1e-4).race, rules=Rules(gain=0.0)).floats


def test_what_looked_faster_by_luck_is_timed_again() -> None:
    made = Device((10.0, 10.0), (20.0, 20.0))
    luck = made.parts[0].ops

    def race(floats: Floats, against: Floats, repetition: int) -> Ratio:
        if (floats, against, repetition) == (luck, ALL_INT8, 0):
            return around(0.8, 0.01)
        return made.race(floats, against, repetition)

    found = measured(made.parts, race)
    assert found.outcome == "int8"
    mine = [trial for trial in found.trail if trial.floats == luck]
    assert [trial.why for trial in mine] == ["faster", "slower"]
    assert not any(trial.kept for trial in mine)


def test_int8_that_pays_only_in_one_place_is_found_from_float() -> None:
    # everything in int8 is slower than float, and no single part in float makes up for that
    made = Device((4.0, 30.0, 30.0, 30.0), (10.0, 10.0, 10.0, 10.0), border=1.0)
    found = measured(made.parts, made.race)
    assert found.floats == made.every - {"op0"}
    assert found.outcome == "mixed"


def test_int8_that_pays_nowhere_is_left_alone() -> None:
    made = Device((11.0, 12.0), (10.0, 10.0))
    found = measured(made.parts, made.race)
    assert (found.outcome, found.floats, found.ratio) == ("float", made.every, None)


def test_a_faster_placement_below_the_floor_is_not_taken() -> None:
    made = Device((10.0, 5.0), (5.0, 20.0))
    judge: Judge = lambda floats: 0.5 if "op0" in floats else 0.9  # noqa: E731
    found = measured(made.parts, made.race, judge, Rules(floor=0.8))
    assert found.floats == ALL_INT8
    assert found.accuracy == 0.9
    assert "below the accuracy floor" in [trial.why for trial in found.trail]


def test_where_int8_misses_the_floor_the_costs_of_parts_choose_what_to_start_from() -> None:
    made = Device((2.0, 2.0, 2.0), (4.0, 10.0, 10.0))
    told: list[Mapping[str, Ratio]] = []

    def recover(costs: Mapping[str, Ratio]) -> Floats:
        told.append(costs)
        return frozenset({"op0"})

    judge: Judge = lambda floats: float(len(floats))  # noqa: E731
    found = measured(made.parts, made.race, judge, Rules(floor=1.0), recover)
    assert found.floats == frozenset({"op0"})
    assert found.outcome == "mixed"
    (costs,) = told
    assert {name: round(ratio.value, 3) for name, ratio in costs.items()} == {"p0": 1.333, "p1": 2.333, "p2": 2.333}


def test_a_network_in_float_below_the_floor_is_not_searched() -> None:
    made = Device((2.0, 2.0), (4.0, 4.0))
    found = measured(made.parts, made.race, lambda floats: 0.1, Rules(floor=0.5))
    assert found.outcome == "unreached"
    assert len(made.asked) == 1


def test_time_that_is_over_ends_the_search_but_not_the_comparison_with_float() -> None:
    made = Device((5.0, 5.0), (10.0, 4.0))
    seen: list[Trial] = []
    found = measured(made.parts, made.race, rules=Rules(over=lambda: True), on_trial=seen.append)
    assert found.outcome == "int8"
    assert not found.complete
    assert [(trial.floats, trial.against) for trial in seen] == [(ALL_INT8, made.every)] * 2
    assert tuple(seen) == found.trail


def test_nothing_to_place_is_an_error() -> None:
    race: Callable[[Floats, Floats, int], Ratio] = lambda *_: around(1.0, 0.1)  # noqa: E731
    with pytest.raises(CalibrationError, match="nothing to place"):
        measured((), race)
