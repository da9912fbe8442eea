"""Measured placement: which parts of a network are faster in int8 on a device, by timing them there.

Knows no device: what times two placements against each other, and what judges one, are given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from calibration.errors import CalibrationError
from calibration.parts import Part

Floats = frozenset[str]  # a placement: the ops that stay in float
ALL_INT8: Floats = frozenset()


class Ratio(Protocol):
    """A ratio of two times with its confidence interval."""

    @property
    def value(self) -> float:
        """The estimate."""

    @property
    def low(self) -> float:
        """Lower bound."""

    @property
    def high(self) -> float:
        """Upper bound."""


# times the first placement over the second, interleaved; the number tells repetitions of one pair apart
Race = Callable[[Floats, Floats, int], Ratio]
Judge = Callable[[Floats], float]
# the measured cost of each part in float -> a placement that reaches the floor, or None
Recover = Callable[[Mapping[str, Ratio]], Floats | None]
# of int8 everywhere or in parts; float: none is faster; unreached: not even float reaches the floor
Outcome = Literal["int8", "mixed", "float", "unreached"]


@dataclass(frozen=True)
class Trial:
    """One comparison of two placements on the device."""

    change: str
    floats: Floats
    against: Floats
    ratio: Ratio  # time of `floats` over that of `against`
    kept: bool
    why: str
    accuracy: float | None = None  # where it was asked


@dataclass(frozen=True)
class Rules:
    """What a placement must reach, and when to stop looking."""

    floor: float | None = None
    gain: float = 0.01  # the share of the time that a change must save to be kept
    races: int = 60  # comparisons after which no new candidates are tried
    over: Callable[[], bool] = field(default=lambda: False)  # no new candidates once it says so


@dataclass(frozen=True)
class Found:
    """The fastest placement within the floor. `trail` has every comparison, in order."""

    floats: Floats
    outcome: Outcome
    ratio: Ratio | None  # time over that of the network in float; None for the network in float
    accuracy: float | None
    complete: bool  # False: a limit ended the search
    trail: tuple[Trial, ...]


def measured(
    parts: Sequence[Part],
    race: Race,
    judge: Judge | None = None,
    rules: Rules = Rules(),
    recover: Recover | None = None,
    on_trial: Callable[[Trial], object] = lambda trial: None,
) -> Found:
    """Find out which of `parts` to leave in float so that the network is fastest, by racing placements.

    Everything in int8 is timed against everything in float, then each part in float against everything in
    int8. Those that look faster are tried again, in order of what they gain, on top of what has been kept, with
    a fresh timing: what looked best of many did so by luck too. A change is kept where that second interval
    lies below 1, the gain is `rules.gain` or more and the floor holds; then all parts are tried again on the new
    placement, in either direction, until nothing is faster or a limit is reached.

    Where everything in int8 misses the floor, `recover` chooses what to start from, told what each part in
    float costs. Where what was found is not faster than float, the search starts from float once more, with
    parts put into int8. The result is everything in float unless a last comparison with float, made for it,
    says that it is faster. It reaches the floor, or is everything in float; where that misses the floor too,
    nothing is searched.

    Nothing is random: equal answers of `race`, `judge` and `recover` give an equal result. Raises
    CalibrationError for no parts.
    """
    if not parts:
        raise CalibrationError("no op of the model would be in int8: there is nothing to place")
    return _Search(parts, race, judge, rules, on_trial).run(recover)


@dataclass(frozen=True)
class _Change:
    """A placement to try, and how it differs from another."""

    text: str
    floats: Floats


@dataclass
class _Search:
    parts: Sequence[Part]
    race: Race
    judge: Judge | None
    rules: Rules
    on_trial: Callable[[Trial], object]
    trail: list[Trial] = field(default_factory=list)
    known: dict[Floats, float] = field(default_factory=dict)
    visited: set[Floats] = field(default_factory=set)
    refused: set[tuple[Floats, Floats]] = field(default_factory=set)  # that a second look found no faster
    limited: bool = False

    def __post_init__(self) -> None:
        self.every: Floats = frozenset(op for part in self.parts for op in part.ops)

    def run(self, recover: Recover | None) -> Found:
        self._tried(_Change("everything in int8", ALL_INT8), self.every, 0, "to compare with float")
        if not self._reaches(ALL_INT8) and not self._reaches(self.every):
            return self._found(self.every, "unreached", None)
        for start in self._starts(recover):
            best = self._climbed(start)
            if best == self.every:  # all parts have been tried in int8 from there
                break
            if (ratio := self._faster(best)) is not None:
                return self._found(best, "mixed" if best else "int8", ratio)
        return self._found(self.every, "float", None)

    def _found(self, floats: Floats, outcome: Outcome, ratio: Ratio | None) -> Found:
        return Found(floats, outcome, ratio, self.known.get(floats), not self.limited, tuple(self.trail))

    def _starts(self, recover: Recover | None) -> Iterator[Floats]:
        """Where to search from."""
        if self._reaches(ALL_INT8):
            yield ALL_INT8
        else:
            start = recover(dict(self._costs())) if recover else None
            if start is not None and start < self.every and self._reaches(start):
                yield start
        yield self.every

    def _costs(self) -> Iterator[tuple[str, Ratio]]:
        """What each part costs in float, where everything else is in int8."""
        for part in self.parts:
            if self._more():
                change = _Change(f"{part.name} in float", part.ops)
                yield part.name, self._tried(change, ALL_INT8, 0, "to know what it costs").ratio

    def _climbed(self, state: Floats) -> Floats:
        """Make changes that are faster until there is none."""
        self.visited.add(state)
        while (changed := self._taken(state, self._sweep(state))) != state:
            state = changed
        return state

    def _sweep(self, state: Floats) -> list[Trial]:
        """Time every change of `state`; return those that look faster, the fastest first."""
        tried = [self._tried(change, state, 0) for change in self._changes(state) if self._more()]
        return sorted((t for t in tried if t.ratio.high < 1), key=lambda t: t.ratio.value)

    def _taken(self, state: Floats, promising: Iterable[Trial]) -> Floats:
        """Make those changes that are faster on top of the ones before, too."""
        start = state
        for trial in promising:
            # the change as such, on what has been kept meanwhile
            floats = (state | (trial.floats - start)) - (start - trial.floats)
            if floats in self.visited or (floats, state) in self.refused or not self._more():
                continue
            if not self._reaches(floats):
                said = (trial.ratio, False, "below the accuracy floor")
                self._tell(_Change(trial.change, floats), state, said)
                continue
            if self._tried(_Change(trial.change, floats), state, 1, least=self.rules.gain).kept:
                state = floats
                self.visited.add(state)
            else:
                self.refused.add((floats, state))
        return state

    def _changes(self, state: Floats) -> Iterator[_Change]:
        """Each part in float, and in int8, where that is a change that leads to a new placement."""
        seen = set(self.visited)
        for part in self.parts:
            for side, floats in (("float", state | part.ops), ("int8", state - part.ops)):
                if floats not in seen:
                    seen.add(floats)
                    yield _Change(f"{part.name} in {side}", floats)

    def _faster(self, floats: Floats) -> Ratio | None:
        """The ratio to float if it says that this is faster."""
        change = _Change("what was kept" if floats else "everything in int8", floats)
        trial = self._tried(change, self.every, 2, least=0.0)
        return trial.ratio if trial.kept else None

    def _tried(
        self, change: _Change, against: Floats, repetition: int, why: str = "", least: float | None = None
    ) -> Trial:
        """Time a change; with `least` it is kept if it is surely faster and saves that share of the time."""
        ratio = self.race(change.floats, against, repetition)
        kept = least is not None and ratio.high < 1 and ratio.value <= 1 - least
        if not why:
            why = "faster" if ratio.high < 1 else "slower" if ratio.low > 1 else "no difference"
            if why == "faster" and not kept and least is not None:
                why = f"faster by less than {100 * least:g}%"
        return self._tell(change, against, (ratio, kept, why))

    def _tell(self, change: _Change, against: Floats, said: tuple[Ratio, bool, str]) -> Trial:
        ratio, kept, why = said
        trial = Trial(change.text, change.floats, against, ratio, kept, why, self.known.get(change.floats))
        self.trail.append(trial)
        self.on_trial(trial)
        return trial

    def _reaches(self, floats: Floats) -> bool:
        if self.judge is None or self.rules.floor is None:
            return True
        if floats not in self.known:
            self.known[floats] = self.judge(floats)
        return self.known[floats] >= self.rules.floor

    def _more(self) -> bool:
        """Whether another candidate may be timed."""
        self.limited = self.limited or len(self.trail) >= self.rules.races or self.rules.over()
        return not self.limited
