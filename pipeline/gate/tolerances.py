"""How much worse than its baseline a run may be, metric by metric: the recipe's section `gate`."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from pipeline.errors import UserError
from pipeline.plugins import did_you_mean

LATENCIES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
RATIOS = frozenset({*LATENCIES, "size", "memory"})  # judged as a ratio; the others as a difference in points

Metric = Literal["p50", "p90", "p99", "size", "memory", "accuracy", "int8"]


def _percent(given: object) -> object:
    """Read "3%" as the number 3; whatever else stays for the type to refuse."""
    if isinstance(given, str) and given.strip().endswith("%"):
        try:
            return float(given.strip()[:-1])
        except ValueError:
            return given
    return given


SHOWN = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\s*[0-9.]+\s*%\s*$"}]}
Percent = Annotated[
    float, BeforeValidator(_percent), Field(ge=0, allow_inf_nan=False), WithJsonSchema(SHOWN, mode="validation")
]
Points = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gate(BaseModel):
    """What `edgesmith check` lets pass. A metric set to null is not judged."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    p50: Annotated[Percent | None, Field(description="percent slower, e.g. 3%; 3 says the same")] = 2.0
    p90: Annotated[Percent | None, Field(description="percent slower")] = 5.0
    p99: Annotated[Percent | None, Field(description="percent slower")] = 10.0
    size: Annotated[Percent | None, Field(description="percent more bytes")] = 1.0
    memory: Annotated[Percent | None, Field(description="percent more peak memory")] = 5.0
    accuracy: Annotated[Points | None, Field(description="points lower, on the test split")] = 0.5
    int8: Annotated[Points | None, Field(description="points lower: percent of ops in int8")] = 0.0
    decisive: Annotated[
        tuple[Metric, ...], Field(description="metrics for which `cannot tell` is no pass: exit code 3")
    ] = ("p50", "accuracy")
    max_s: Annotated[float, Field(gt=0, description="time limit of measuring the baseline and the run anew")] = 60.0
    launches: Annotated[
        int, Field(ge=3, description="pairs of fresh processes for that, at most; it stops once the data decide")
    ] = 24

    def tolerance(self, metric: str) -> float | None:
        """Percent or points; None where the metric is not judged."""
        found: float | None = getattr(self, metric)
        return found


METRICS = tuple(name for name in Gate.model_fields if name not in ("decisive", "max_s", "launches"))


def overridden(gate: Gate, given: Sequence[str]) -> Gate:
    """The gate with METRIC=VALUE in place of what it says. Raises UserError."""
    values = gate.model_dump()
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in METRICS:
            known = did_you_mean(key, METRICS) or f"; have: {', '.join(METRICS)}"
            raise UserError(f"--tolerance {text}: write METRIC=VALUE, e.g. p50=3%{known}")
        try:
            values[key] = None if value in ("null", "off") else float(value.strip().removesuffix("%"))
        except ValueError:
            raise UserError(f"--tolerance {text}: {value!r} is no number; write e.g. {key}=3%") from None
    return validated(values, "--tolerance")


def validated(given: object, where: str) -> Gate:
    """Read a gate from plain data. Raises UserError that begins with `where`."""
    try:
        return Gate.model_validate(given, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
