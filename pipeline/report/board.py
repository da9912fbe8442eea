"""What the report says of the board that measured: its state before and after, and the energy of a call."""

from statistics import median
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from targets.board.energy import Energy
from targets.board.seen import Seen


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Reading(_Model):
    """One reading of the board's state; what it does not tell is empty or null."""

    at_s: Annotated[float, Field(description="the board's monotonic clock")]
    clocks_mhz: dict[str, float]
    limits_mhz: Annotated[dict[str, tuple[float, float]], Field(description="least and most that a clock may be")]
    governors: dict[str, str]
    temperatures_c: dict[str, float]
    trips_c: Annotated[dict[str, float], Field(description="where throttling begins")]
    throttling: Annotated[tuple[str, ...], Field(description="what was being slowed down")]
    throttle_events: Annotated[dict[str, int], Field(description="since boot")]
    rails_mw: dict[str, float]
    memory_available_bytes: int | None
    swap_used_bytes: int | None
    load: Annotated[float | None, Field(description="processes running or waiting, mean over a minute")]


class EnergyReport(_Model):
    """Energy of one call, idle power of the board included."""

    source: Annotated[str, Field(description="counter: a counter of energy; sampled: power, read meanwhile")]
    rail: Annotated[str | None, Field(description="the one that holds the others; null: the board has only parts")]
    per_call_mj: Annotated[dict[str, float], Field(description="by rail, the median over the sets of processes")]
    sets_mj: Annotated[tuple[dict[str, float], ...], Field(description="of each set of processes")]

    def line(self) -> str:
        """The figure in words: of the rail that holds the others, else of each."""
        shown = {self.rail: self.per_call_mj[self.rail]} if self.rail else self.per_call_mj
        words = ", ".join(f"{mj:.3g} mJ on {rail}" for rail, mj in shown.items())
        return f"a call takes {words} ({self.source}, idle power included)"


class BoardReport(_Model):
    """The board around the timed rounds: two readings for each set of processes."""

    states: tuple[Reading, ...]
    energy: Annotated[EnergyReport | None, Field(description="null: no rail measures power")]


def board_report(seen: Seen) -> BoardReport | None:
    """Summarise what was seen; None where nothing was looked at."""
    if not seen.states:
        return None
    states = tuple(Reading.model_validate(state.as_dict()) for state in seen.states)
    return BoardReport(states=states, energy=_energy(seen.energy))


def _energy(sets: tuple[Energy, ...]) -> EnergyReport | None:
    if not sets:
        return None
    each = tuple(energy.per_call_mj() for energy in sets)
    rails = {rail: median(one[rail] for one in each if rail in one) for rail in each[0]}
    return EnergyReport(source=sets[0].source, rail=sets[0].rail, per_call_mj=rails, sets_mj=each)
