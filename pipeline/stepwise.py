"""Pruning in steps with training between them. Every step is on disk when it ends: an interrupted run goes on."""

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pipeline import checkpoint
from pipeline.cutting import Cutter
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.pruning import PruneResult, groups_of
from pipeline.references import DataSpec, ModelSpec
from pipeline.training.config import Part
from pipeline.training.distill import Distilled
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import fit
from pipeline.training.objective import Objective
from pipeline.training.stepwise import Schedule, increments

if TYPE_CHECKING:
    from pipeline.plans import ModelPlan

POINT = 0.01


@dataclass(frozen=True)
class State:
    """A model on its way: the plans that made it, and what each step told."""

    model: nn.Module
    plans: tuple["ModelPlan", ...]
    steps: tuple[Mapping[str, Any], ...] = ()

    @property
    def left(self) -> float:
        """The share of what is pruned that is left."""
        share = 1.0
        for step in self.steps:
            share *= 1 - step["achieved_ratio"]
        return share


@dataclass(frozen=True)
class Step:
    """What to cut, and which epochs of the training follow; None for all."""

    ratio: float | Mapping[str, float]
    epochs: range | None = None


def steps_of(schedule: Schedule, model: nn.Module, ratio: float, cutter: Cutter) -> list[Step]:
    """Return the steps of a schedule, for a model that has none behind it."""
    if schedule.kind == "layerwise":
        groups = groups_of(model, (cutter.example,), **{**cutter.settings, "ratio": 0.0})
        return [Step({escape(group.name): ratio}) for group in groups]
    shares = increments(schedule.curve, schedule.steps, ratio)
    if schedule.kind != "during":
        return [Step(share) for share in shares]
    total = schedule.finetune.epochs
    starts = [total * i // (2 * schedule.steps) for i in range(schedule.steps)]
    return [Step(s, range(a, b)) for s, a, b in zip(shares, starts, [*starts[1:], total], strict=True)]


@dataclass(frozen=True)
class Stepwise:
    """Runs a schedule. `folder` keeps one folder per finished step."""

    schedule: Schedule
    cutter: Cutter
    model: ModelSpec
    data: DataSpec
    folder: Path
    progress: Progress

    def __call__(self, model: nn.Module, plans: list["ModelPlan"], ratio: float) -> State:
        """Cut and train `model` until the schedule ends."""
        steps = steps_of(self.schedule, model, ratio, self.cutter)
        before = evaluate(model, self.cutter.data.validation).top1 if self.schedule.kind == "until" else 0.0
        objective = self._objective(model)
        state = self._resumed(State(model, tuple(plans)), steps)
        with self.progress.bar("prune and train", len(steps)) as bar:
            bar.advance(len(state.steps))
            for number, step in enumerate(steps[len(state.steps) :], len(state.steps)):
                if self._lost(state, before):
                    break
                state = self._step(state, step, number, objective)
                bar.advance(1, f"{1 - state.left:.0%} gone")
        return self._before_loss(State(model, tuple(plans)), state, before)

    def _step(self, state: State, step: Step, number: int, objective: Callable[[nn.Module], Objective | None]) -> State:
        result = self.cutter(state.model, ratio=step.ratio)
        config, data = self.schedule.finetune, self.cutter.data
        training = self.folder / f"{number}.training"
        if step.epochs is not None:
            config = Part(**vars(config), first=step.epochs.start, stop=step.epochs.stop)
        fit(result.model, data, config, training, self.progress, objective(result.model))
        figures = {**figures_of(result), "validation_top1": evaluate(result.model, data.validation).top1}
        plans = (*state.plans, result.plan)
        beside = self.folder / f"{number}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        checkpoint.save(beside, result.model, plans, self.data, figures)
        beside.rename(self._place(number))
        shutil.rmtree(training)
        return self._after(number + 1, state)

    def _place(self, number: int) -> Path:
        return self.folder / f"step-{number}"

    def _resumed(self, state: State, steps: list[Step]) -> State:
        """Take up the steps that are on disk."""
        done = next((n for n in range(len(steps)) if not self._place(n).is_dir()), len(steps))
        return self._after(done, state)

    def _after(self, count: int, start: State) -> State:
        """Return the state after so many steps, which are on disk; `start` where there are none."""
        if not count:
            return start
        figures = [self._figures(number) for number in range(count)]
        model, plans = checkpoint.load(self._place(count - 1), self.model, self.data)
        return State(model, tuple(plans), tuple(figures))

    def _figures(self, number: int) -> Mapping[str, Any]:
        info = checkpoint.Info.load(self._place(number))
        if info is None:
            raise UserError(f"{self._place(number)} has no info.json; remove {self.folder} to start over")
        return info.figures

    def _lost(self, state: State, before: float) -> bool:
        """Whether the last step has cost more than the schedule allows."""
        if self.schedule.kind != "until" or not state.steps:
            return False
        after: float = state.steps[-1]["validation_top1"]
        return before - after > self.schedule.max_drop * POINT

    def _before_loss(self, start: State, state: State, before: float) -> State:
        """Return the state of the last step that was within what is allowed."""
        return self._after(len(state.steps) - 1, start) if self._lost(state, before) else state

    def _objective(self, source: nn.Module) -> Callable[[nn.Module], Objective | None]:
        """Return what makes a step's loss; the model as it came is the teacher where there is one."""
        wanted = self.schedule.distill
        if wanted is None:
            return lambda model: None
        teacher, config = copy.deepcopy(source), self.schedule.finetune
        return lambda model: Distilled(wanted, config, model, teacher, self.cutter.example)


def figures_of(result: PruneResult) -> dict[str, Any]:
    """Return what a report tells of a cut."""
    return {
        "requested_ratio": result.requested,
        "achieved_ratio": result.achieved,
        "proof_max_rel_error": result.proof.max_rel_error,
        "frozen": {op: list(names) for op, names in result.frozen.items()},
        **({"sparsity": result.sparsity.achieved} if result.sparsity else {}),
    }
