from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline import core, recipe
from pipeline.core import Done, Stage
from pipeline.progress import SILENT, Progress
from pipeline.stages.compile import Compile
from pipeline.store import Artifact, Store
from targets.backends.cpu import Cpu
from targets.devices.local import Local

RUNS: list[str] = []
IN = {"previous": Artifact(Path(), "0")}


@dataclass(frozen=True)
class Write(Stage):
    after: ClassVar[tuple[str, ...]] = ()
    text: str

    @classmethod
    def name(cls) -> str:
        return "write"

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        RUNS.append("write")
        (out / "text").write_text(self.text)


@dataclass(frozen=True)
class Upper(Stage):
    suffix: str = ""

    @classmethod
    def name(cls) -> str:
        return "upper"

    def run(self, inputs: Mapping[str, Artifact], out: Path, progress: Progress) -> None:
        RUNS.append(self.name())
        (out / "text").write_text((inputs["previous"].path / "text").read_text().upper() + self.suffix)


@dataclass(frozen=True)
class Last(Upper):
    @classmethod
    def name(cls) -> str:
        return "last"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RUNS.clear()


def run(store: Store, *stages: Stage, on_done: core.OnDone = lambda done: done.artifact) -> dict[str, Artifact]:
    return core.run(stages, store, on_done, SILENT)


def test_a_second_run_does_no_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run(store, Write("a"), Upper())
    assert run(store, Write("a"), Upper()) == first
    assert RUNS == ["write", "upper"]
    assert (first["upper"].path / "text").read_text() == "A"


def test_a_changed_field_reruns_the_stage_and_what_follows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(store, Write("a"), Upper())
    run(store, Write("b"), Upper())
    assert RUNS == ["write", "upper"] * 2


def test_the_same_bytes_out_leave_what_follows_cached(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(store, Write("a"), Upper(), Last())
    run(store, Write("A"), Upper(), Last())  # upper gives the same from either
    assert RUNS == ["write", "upper", "last", "write", "upper"]


def test_failures_are_not_cached_and_finished_stages_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def refuse(done: Done) -> Artifact:
        if done.stage.name() == "upper":
            raise RuntimeError("measuring failed")
        return done.artifact

    with pytest.raises(RuntimeError):
        run(store, Write("a"), Upper(), on_done=refuse)
    run(store, Write("a"), Upper())
    assert RUNS == ["write", "upper"]


def test_a_rejected_result_is_passed_over(tmp_path: Path) -> None:
    def reject_upper(done: Done) -> Artifact:
        return done.inputs["previous"] if done.stage.name() == "upper" else done.artifact

    done = run(Store(tmp_path), Write("a"), Upper("!"), Last("?"), on_done=reject_upper)
    assert (done["upper"].path / "text").read_text() == "A!"
    assert (done["last"].path / "text").read_text() == "A?"


def test_the_code_behind_a_stage_is_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Store.key(core.parts_of(Write("a"), {}))
    monkeypatch.setattr(core.fingerprint, "code_behind", lambda modules: {"m": "edited"})
    assert Store.key(core.parts_of(Write("a"), {})) != before


def test_a_criterion_counts_for_the_prune_stage_that_uses_it_alone(project: Path) -> None:
    loaded = recipe.load(project)
    shared = {"model": loaded.model_spec(), "data": loaded.data_spec()}
    code = core.parts_of(loaded.stage("prune", shared), {"previous": Artifact(project, "0")})["code"]
    assert "pipeline.pruning.criteria.l1" in code
    assert "pipeline.pruning.criteria.l2" not in code
    assert "pipeline.pruning.rules.conv" in code
    source = core.parts_of(loaded.stage("source", shared), {})["code"]
    assert "pipeline.pruning.criteria.l1" not in source


def test_what_is_compiled_belongs_to_one_device() -> None:
    keys = {
        Store.key(core.parts_of(Compile(target=Cpu(), device=Local(), fingerprint=f, runtime={}), IN))
        for f in ("a", "b")
    }
    assert len(keys) == 2
