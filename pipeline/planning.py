"""What a run would do: which stages have their result already, and why the others have to run."""

from dataclasses import dataclass

from pipeline.assess import Assessor
from pipeline.core import PREVIOUS, Done, inputs_of, parts_of
from pipeline.deploy import Job
from pipeline.store import Artifact, NotStoredError


@dataclass(frozen=True)
class Planned:
    """One stage of a plan."""

    stage: str
    cached: bool
    why: str


def plan(job: Job) -> list[Planned]:
    """Follow the stored results as far as they go. Runs and measures nothing: `job.store` is read-only."""
    stages, meter = job.stages()
    assessor = Assessor(meter, job.recipe, job.place.proxy)
    done: dict[str, Artifact] = {}
    rows: list[Planned] = []
    waiting: str | None = None
    for stage in stages:
        name = stage.name()
        if waiting is not None:
            rows.append(Planned(name, False, f"follows {waiting}"))
            continue
        inputs = inputs_of(stage, done)
        parts = parts_of(stage, inputs)
        artifact = job.store.get(parts)
        if artifact is None:
            rows.append(Planned(name, False, job.store.why(f"{job.slot}/{name}", parts)))
            waiting = name
            continue
        done[name] = done[PREVIOUS] = artifact
        try:
            done[PREVIOUS] = assessor.on_done(Done(stage, artifact, inputs, True, 0.0))
            rows.append(Planned(name, True, "has its result"))
        except NotStoredError:  # it will be measured, and is taken to go on
            rows.append(Planned(name, True, f"has its result; not measured for {job.target.name()} yet"))
    return rows
