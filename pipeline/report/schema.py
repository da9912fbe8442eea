"""The report as data: `edgesmith.report/1`. Raw samples are kept; every summary can be derived from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.report.board import BoardReport


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Interval(_Model):
    """A figure with its 95% confidence interval."""

    value: float
    low: float
    high: float
    level: Annotated[float, Field(description="confidence that it really has: too few samples bound no p99 at 95%")] = (
        0.95
    )


class Proportion(Interval):
    """A share of `n` samples, with its Wilson interval."""

    n: int


class Latency(_Model):
    """Time of one call, batch included, with distribution-free intervals whose unit is the process."""

    p50_ms: Interval
    p90_ms: Interval
    p99_ms: Interval
    samples: Annotated[
        tuple[tuple[int, ...], ...], Field(description="every call in ns, one list per interleaved round")
    ]
    launches: Annotated[
        tuple[int, ...], Field(description="rounds of each set of fresh processes, in order; empty: one set")
    ] = ()
    load_s: Annotated[float | None, Field(description="cold start: opening what was built")] = None
    first_call_s: Annotated[float | None, Field(description="cold start: the first call after that")] = None
    throughput_per_s: Annotated[
        Interval | None, Field(description="samples per second with all streams, where timing.mode is throughput")
    ] = None


class LayerTime(_Model):
    """What one layer took, by the runtime's own profiler, which slows down what it watches."""

    name: str
    kind: str
    kernel: Annotated[str, Field(description="the code that ran it; empty where the runtime does not say")]
    precision: str
    time_ns: Annotated[int, Field(description="median of the profiled calls")]


class Precision(_Model):
    """What was asked of the runtime, and how many convolutions and matrix products ran in what."""

    requested: str
    ran: dict[str, int]


class Coverage(_Model):
    """How much of the model is in int8, and what keeps each other op in float."""

    int8: Annotated[dict[str, int], Field(description="kind of op to how many run in int8")]
    ops: Annotated[dict[str, int], Field(description="kind of op to how many there are")]
    floats: Annotated[dict[str, str], Field(description="op to why it is not in int8")]
    ran: Annotated[bool, Field(description="read from what the runtime compiled; else as placed")]
    text: str


class DeviceInfo(_Model):
    """Where it was built and timed."""

    name: str
    digest: Annotated[str, Field(description="sha256 of the fingerprint; only equal ones compare")]
    fingerprint: dict[str, Any]


class Verdict(_Model):
    """Whether the stage paid, on this device."""

    kind: Literal["reference", "pays", "same", "slower", "inaccurate", "unmeasured"]
    text: str
    rejected: bool = False


class PlacementTrial(_Model):
    """Two placements, timed against each other."""

    change: Annotated[str, Field(description="what is other in the first one")]
    against: Annotated[str, Field(description="the second: float, int8, or what had been kept by then")]
    floats: Annotated[tuple[str, ...], Field(description="ops that the first has in float, of those int8 would have")]
    ratio: Annotated[Interval, Field(description="p50 of the first over that of the second, interleaved")]
    accuracy: Annotated[float | None, Field(description="of the first, where it was asked")]
    kept: bool
    why: str


class MeasuredPlacement(_Model):
    """Which parts of the network the device runs faster in float, as timed on it."""

    outcome: Annotated[
        Literal["int8", "mixed", "float", "unreached"],
        Field(description="float: none with int8 is faster; unreached: not even float reaches the floor"),
    ]
    floats: Annotated[tuple[str, ...], Field(description="ops left in float, of those that int8 would have")]
    ratio: Annotated[Interval | None, Field(description="p50 over that of the network in float; null: it is that")]
    floor: Annotated[float | None, Field(description="the least accuracy that was accepted")]
    accuracy: Annotated[float | None, Field(description="of what was kept; null: nothing asked for it")]
    complete: Annotated[bool, Field(description="false: a limit of races or of time ended the search")]
    text: str
    trials: Annotated[tuple[PlacementTrial, ...], Field(description="every comparison, in order")]


class StageReport(_Model):
    """What would ship if the pipeline stopped at this stage."""

    stage: str
    status: Annotated[
        Literal["ok", "rejected", "no device"],
        Field(description="rejected: an earlier artifact goes on; no device: built, but it cannot run here"),
    ]
    cached: bool
    wall_s: Annotated[float, Field(description="of the stage's own work, or of finding it in the store")]
    size_bytes: Annotated[int, Field(description="the files the device needs to run the model")]
    params: int | None
    macs: int | None
    metrics: Annotated[
        dict[str, Proportion],
        Field(description="over the test split, through the artifact; validation_… is what decides"),
    ]
    latency: Latency | None
    speedup: Annotated[Interval | None, Field(description="p50 of source over this one's, from interleaved runs")]
    ratio_to_previous: Annotated[
        Interval | None, Field(description="this p50 over that of the artifact it would replace, interleaved")
    ]
    memory_peak_bytes: int | None
    layers: Annotated[tuple[LayerTime, ...], Field(description="in the order they run")] = ()
    runtime: dict[str, str]
    precision: Precision
    coverage: Annotated[Coverage | None, Field(description="of an int8 model")] = None
    placement: Annotated[MeasuredPlacement | None, Field(description="of a stage that measured it")] = None
    device: DeviceInfo | None
    board: Annotated[BoardReport | None, Field(description="its state while timing; null: not timed")] = None
    proxy: Annotated[bool, Field(description="measured on another kind of device than the target is for")]
    warnings: tuple[str, ...]
    verdict: Verdict
    same_as: Annotated[str | None, Field(description="the earlier stage whose files are byte for byte the same")] = None
    figures: Annotated[dict[str, Any], Field(description="what the stage tells of itself")]


class Report(_Model):
    """One run of a recipe for a target."""

    schema_: Annotated[Literal["edgesmith.report/1"], Field(alias="schema")] = "edgesmith.report/1"
    recipe: str
    target: str
    created: str
    versions: dict[str, str]
    git_commit: str | None
    budget: dict[str, float]
    timing: dict[str, float | str | bool]
    shipped: Annotated[str, Field(description="the stage whose result is in model/")]
    not_run: Annotated[str | None, Field(description="why nothing could be run, if so")]
    stages: tuple[StageReport, ...]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def row(self, stage: str) -> StageReport:
        """The row of a stage. Raises KeyError."""
        for row in self.stages:
            if row.stage == stage:
                return row
        raise KeyError(stage)
