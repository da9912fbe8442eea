"""The outcome of a check as data: `edgesmith.check/1`. Raw samples are kept; every figure can be derived from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["pass", "regression", "cannot tell", "not judged"]
PASS, REGRESSION, CANNOT_TELL = 0, 1, 3  # exit codes; 2 is for what is wrong in the command


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="null")


class Judgement(_Model):
    """One metric of the run beside the baseline's."""

    metric: str
    outcome: Outcome
    baseline: Annotated[float | None, Field(description="in `unit`")] = None
    run: Annotated[float | None, Field(description="in `unit`")] = None
    unit: str = ""
    change: Annotated[float | None, Field(description="worse is positive; percent, or points of accuracy and int8")] = (
        None
    )
    low: Annotated[float | None, Field(description="of its 95% interval; equal to change where it is exact")] = None
    high: float | None = None
    tolerance: Annotated[float | None, Field(description="the change that is let pass")] = None
    detectable: Annotated[
        float | None, Field(description="the least true change that this check would fail on 95 times of 100")
    ] = None
    text: str

    @property
    def unit_of_change(self) -> str:
        """What `change`, `tolerance` and the like are in."""
        return " points" if self.metric in ("accuracy", "int8") else "%"

    @property
    def reach(self) -> str:
        """What this check could have found, in words; empty where it is exact, or not known."""
        if self.detectable is None or self.detectable == self.tolerance:
            return ""
        return f"{self.detectable:.1f}{self.unit_of_change}"

    @property
    def told(self) -> str:
        """The text, and what could have been found."""
        return f"{self.text}; detectable: {self.reach}" if self.reach else self.text


class Launch(_Model):
    """A pair of fresh processes, their blocks of calls interleaved, in ns."""

    baseline: tuple[tuple[int, ...], ...]
    run: tuple[tuple[int, ...], ...]


class Check(_Model):
    """A run judged against a baseline."""

    schema_: Annotated[Literal["edgesmith.check/1"], Field(alias="schema")] = "edgesmith.check/1"
    created: str
    run: Annotated[str, Field(description="the folder that was checked")]
    baseline: str
    version: int
    outcome: Literal["pass", "regression", "cannot tell"]
    how: Annotated[
        Literal["interleaved", "stored", "refused", "same files"],
        Field(description="interleaved: both artifacts measured anew, today; stored: the samples of either's own day"),
    ]
    device: Annotated[dict[str, Any], Field(description="fingerprint of where it was measured")]
    judgements: tuple[Judgement, ...]
    notes: Annotated[tuple[str, ...], Field(description="what limits the answer, and what to do")] = ()
    launches: tuple[Launch, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 pass, 1 regression, 3 cannot tell."""
        return {"pass": PASS, "regression": REGRESSION, "cannot tell": CANNOT_TELL}[self.outcome]
