"""The training loop: validated every epoch, best epoch kept, interruptible, resumed bit for bit."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data.base import Data
from pipeline.errors import UserError
from pipeline.progress import SILENT, Bar, Progress
from pipeline.training import state
from pipeline.training.batches import Batches
from pipeline.training.config import Training
from pipeline.training.device import device_of, place, resolve_count, resolve_device, resolve_dtype, to_device
from pipeline.training.evaluate import evaluate
from pipeline.training.job import BEST, LAST, Epoch, History, Job
from pipeline.training.mixing import mixer
from pipeline.training.objective import CrossEntropy, Objective
from pipeline.training.optim import average, optimizer
from pipeline.training.schedule import rate
from pipeline.training.several import together
from pipeline.training.team import Alone, Team

_APART = 1_000_003  # between the seeds of two devices: no run has so many epochs

_Hooks = Mapping[str, tuple[Callable[[Tensor], Tensor | None], ...]]


def fit(
    model: nn.Module,
    data: Data,
    config: Training,
    folder: Path,
    progress: Progress = SILENT,
    objective: Objective | None = None,
) -> History:
    """Train `model` in place; it ends with the weights of the best epoch on `data.validation`.

    `folder` receives a checkpoint after every epoch, and a call with the same folder goes on from there: the
    result equals that of an uninterrupted run bit for bit. `objective` replaces cross entropy; it moves to where
    training is, and what it trains is part of the checkpoint. Of a `Part`, its epochs run, with the learning rates,
    batches and random numbers that they have in the whole. On several devices each is a process that takes its
    share of every batch; gradients are averaged, and BatchNorm sees its share alone. The model is back on its
    device at the end, in evaluation mode. Raises UserError for a loss that diverges, for a folder of another
    training, and for devices that are not there.
    """
    home = device_of(model)
    config = replace(config, devices=resolve_count(config.devices, config.accelerator))
    job = Job(model, data, config, folder, objective or CrossEntropy(config.label_smoothing))
    if config.devices == 1:
        history = _train(job, Alone(resolve_device(config.accelerator)), progress)
    else:
        history = _train_on_several(job, progress)
    if history.epochs:
        model.load_state_dict(state.load(folder / BEST)[0])
    place(model, home, torch.contiguous_format)
    model.eval()
    return history


def _train(job: Job, team: Team, progress: Progress) -> History:
    """Run the epochs that are left."""
    run = _Run(job, team)
    history = run.resume()
    for epoch in job.config.window[len(history.epochs) :]:
        history = run.epoch(epoch, history, progress)
    return history


def _train_on_several(job: Job, progress: Progress) -> History:
    """Run the epochs that are left in a process per device; what they give is in the folder."""
    identity, devices = job.identity, job.devices
    _, header = job.last(identity)
    if len(History.of(header).epochs) < len(job.config.window):
        batch = min(job.config.batch_size, len(job.data.train))
        if batch < devices:
            raise UserError(f"devices: {devices} cannot share batches of {batch}; raise batch_size, or lower devices")
        hooks = {name: tuple((p._backward_hooks or {}).values()) for name, p in job.model.named_parameters()}
        kind = resolve_device(job.config.accelerator).type
        place(job.model, torch.device("cpu"), torch.contiguous_format)
        place(job.objective, torch.device("cpu"), torch.contiguous_format)
        try:
            together(partial(_take_part, job, hooks), devices, kind, progress)
        finally:
            state.sweep(job.folder)
    parts, header = job.last(identity)
    job.objective.load_state_dict(parts.get("objective", {}), strict=False)
    return History.of(header)


def _take_part(job: Job, hooks: _Hooks, team: Team, progress: Progress) -> None:
    """Train in a process of its own, where a copy of the model has come without the hooks of its parameters."""
    for name, parameter in job.model.named_parameters():
        for hook in hooks[name]:
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    _train(job, team, progress)


class _Loss(nn.Module):
    """Objective and model as one module, so that a team averages the gradients of both."""

    def __init__(self, objective: Objective, model: nn.Module) -> None:
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.objective(self.model, x, y)
        return loss


class _Run:
    """One training, as one device of a team runs it: the optimizer, the batches, the checkpoints of a folder."""

    def __init__(self, job: Job, team: Team) -> None:
        self.job, self.model, self.data, self.config = job, job.model, job.data, job.config
        self.objective, self.team, self.device = job.objective, team, team.device
        self.identity = job.identity
        model, objective, config = job.model, job.objective, job.config
        self.dtype = resolve_dtype(config.precision, self.device)
        place(model, self.device, torch.channels_last)
        place(objective, self.device, torch.channels_last)
        named = {"model": dict(model.named_parameters()), "objective": objective.trained()}
        self.trained = {f"{part}.{name}": p for part, own in named.items() for name, p in own.items()}
        self.optimizer = optimizer(config, self.trained.values())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = average(model, config.ema)
        mix = mixer(config, len(self.data.classes))
        self.batches = Batches(self.data, config.batch_size, config.seed, mix, (team.rank, team.size))
        self.steps = max(1, round((config.epoch_size or len(self.data.train)) / self.batches.batch_size))
        self.loss = team.joined(_Loss(objective, model))

    @property
    def kept(self) -> nn.Module:
        """What is validated and kept: the averaged weights where there are some."""
        return self.model if self.average is None else self.average.module

    def resume(self) -> History:
        """Take up the folder's last checkpoint, if it has one."""
        self.job.folder.mkdir(parents=True, exist_ok=True)
        parts, header = self.job.last(self.identity)
        if not parts:
            return History()
        self.model.load_state_dict(parts["model"])
        self.objective.load_state_dict(parts.get("objective", {}), strict=False)  # a teacher is not in there
        state.restore_optimizer(self.trained, self.optimizer, parts.get("optimizer", {}))
        if self.average is not None:
            self.average.load_state_dict(parts["ema"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(header["scaler"])
        return History.of(header)

    def epoch(self, epoch: int, history: History, progress: Progress) -> History:
        """Train one epoch; the first of the team validates it, then puts it on disk."""
        with progress.bar(f"epoch {epoch + 1}/{self.config.epochs}", self.steps) as bar:
            known = f"  validation {history.epochs[-1].validation.top1:.2%}" if history.epochs else ""
            loss = self._train(epoch, bar, known)
            if self.team.rank:
                return history
            score = evaluate(self.kept, self.data.validation)
            self._check(score.loss, "validation loss", (epoch + 1) * self.steps - 1)
            bar.advance(0, f"loss {loss:.3f}  validation {score.top1:.2%}")
        history = replace(history, epochs=(*history.epochs, Epoch(loss, score)))
        self._save(history)
        return history

    def _train(self, epoch: int, bar: Bar, known: str) -> float:
        """Take the steps of one epoch, showing the loss beside what is `known`; return their mean loss."""
        total = 0.0
        first = epoch * self.steps
        self.model.train()
        with ExitStack() as stack:
            seed = self.config.seed + epoch + _APART * self.team.rank
            stack.enter_context(_reproducible(seed, self.device))
            # Closed at once on Ctrl-C, not when the traceback that holds it is dropped.
            stream = stack.enter_context(closing(self.batches.stream(first, first + self.steps)))
            for step, (x, y) in enumerate(stream, first):
                loss = self._step(step, to_device(x, self.device), torch.from_numpy(y).to(self.device))
                self._check(loss, "loss", step)
                total += loss
                bar.advance(1, f"loss {loss:.3f}{known}")
        return total / self.steps

    def _step(self, step: int, x: Tensor, y: Tensor) -> float:
        """Take one step down the team's gradient; return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, step, self.steps)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss: Tensor = self.loss(x, y)
        # Shares of a batch may differ by a sample; so weighted their mean over the team is that over the batch.
        loss = loss * (len(x) * self.team.size / self.batches.batch_size)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return self.team.mean(loss.detach()).item()

    def _check(self, loss: float, name: str, step: int) -> None:
        """Refuse to go on from a loss that is no number."""
        if not math.isfinite(loss):
            raise UserError(
                f"training diverged: the {name} is {loss} at step {step} (epoch {step // self.steps + 1}); "
                f"lower lr (it is {self.config.lr:g}), or check the data for NaN"
            )

    def _save(self, history: History) -> None:
        """Write the best weights first: a run killed in between repeats its epoch and writes them again."""
        header = {"identity": self.identity, "epochs": [asdict(epoch) for epoch in history.epochs]}
        if history.best == len(history.epochs) - 1:
            state.save(self.job.folder / BEST, self.kept.state_dict(), header)
        parts = {
            "model": self.model.state_dict(),
            "objective": self.objective.trained(),
            "optimizer": state.of_optimizer(self.trained, self.optimizer),
            "ema": self.average.state_dict() if self.average is not None else {},
        }
        state.save(self.job.folder / LAST, state.joined(parts), {**header, "scaler": self.scaler.state_dict()})


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch (dropout) for one epoch and make cuDNN deterministic; the caller's state is restored."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        yield
