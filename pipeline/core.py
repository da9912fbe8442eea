"""The engine: stages with content-addressed results, run once and found again. Knows no concrete stage."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline import fingerprint
from pipeline.progress import Progress
from pipeline.store import Artifact, Store

PREVIOUS = "previous"
Policy = Literal["reject", "reject_slower", "warn"]  # what becomes of a result that is a regression


@dataclass(frozen=True)
class Stage(ABC):
    """One step of the pipeline. Its fields are its whole configuration; the file name is its name."""

    after: ClassVar[tuple[str, ...]] = (PREVIOUS,)  # whose artifacts it reads; "previous" is the one before
    uses: ClassVar[tuple[str, ...]] = ()  # distributions whose version changes the result
    resumable: ClassVar[bool] = False  # `out` may hold what an interrupted run of the same key left there
    on_regression: ClassVar[Policy | None] = "warn"  # default of the recipe's option; None: no such option

    @classmethod
    def name(cls) -> str:
        """The name recipes use: the file's."""
        return cls.__module__.rpartition(".")[2]

    def reads(self) -> tuple[str, ...]:
        """Whose artifacts it reads with these fields: `after`, where they do not matter."""
        return self.after

    def code(self) -> tuple[str, ...]:
        """Modules that `run` finds by name, which an import statement does not show."""
        return ()

    @classmethod
    def wrong(cls, options: Mapping[str, Any]) -> str | None:
        """Say what is wrong with options of the right types, before any work; None if nothing is."""
        return None

    @classmethod
    def lacking(cls, options: Mapping[str, Any], why_not: str | None) -> str | None:
        """Say what is missing where nothing can run on the target's device, because of `why_not`; None if nothing."""
        return None

    def versions(self) -> Mapping[str, str]:
        """Versions of the distributions that the result depends on."""
        return {name: version(name) for name in self.uses}

    @abstractmethod
    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        """Write the result into the folder `out`. Reads nothing but its fields and `inputs`."""


@dataclass(frozen=True)
class Done:
    """A stage that has its result."""

    stage: Stage
    artifact: Artifact
    inputs: Mapping[str, Artifact]
    cached: bool
    wall_s: float


OnDone = Callable[[Done], Artifact]


def parts_of(stage: Stage, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Everything a stage's result depends on, by kind; the cache key is the hash of it."""
    return {
        "stage": stage.name(),
        "fields": fingerprint.plain(stage),
        "inputs": {name: artifact.digest for name, artifact in inputs.items()},
        "versions": dict(stage.versions()),
        "code": fingerprint.code_behind([type(stage).__module__, *stage.code()]),
    }


def inputs_of(stage: Stage, done: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Pick what a stage reads from what is there."""
    return {name: done[name] for name in stage.reads()}


def run(
    stages: Sequence[Stage], store: Store, on_done: OnDone, progress: Progress, slot: str = ""
) -> dict[str, Artifact]:
    """Run the stages in order, each only if the store has no result for its key.

    `on_done` sees every result and returns the artifact that the following stages get as "previous": the
    result, or an earlier one where it rejects it. `slot` names this line of runs, for `why`.
    """
    done: dict[str, Artifact] = {}
    for stage in stages:
        inputs = inputs_of(stage, done)
        parts = parts_of(stage, inputs)
        start_s = time.perf_counter()

        def work(out: Path, stage: Stage = stage, inputs: Mapping[str, Artifact] = inputs) -> None:
            stage.run(inputs, out, progress)

        artifact, cached = store.make(parts, work, resumable=stage.resumable)
        store.remember(f"{slot}/{stage.name()}", parts)
        wall_s = time.perf_counter() - start_s
        done[stage.name()] = artifact
        done[PREVIOUS] = on_done(Done(stage, artifact, inputs, cached, wall_s))
    return done
