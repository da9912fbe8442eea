"""The training loop: validated every epoch, best epoch kept, interruptible, resumed bit for bit."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.base import Data
from pipeline.errors import UserError
from pipeline.progress import SILENT, Bar, Progress
from pipeline.training import state
from pipeline.training.batches import Batches
from pipeline.training.config import Training
from pipeline.training.device import device_of, place, resolve_device, resolve_dtype, to_device
from pipeline.training.evaluate import Score, evaluate
from pipeline.training.mixing import mixer
from pipeline.training.objective import CrossEntropy, Objective
from pipeline.training.optim import average, optimizer
from pipeline.training.schedule import rate

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    loss: float  # mean over its steps
    validation: Score


@dataclass(frozen=True)
class History:
    """Every epoch of a run, and which one was kept."""

    epochs: tuple[Epoch, ...] = ()

    @property
    def best(self) -> int:
        """Index of the epoch with the highest validation top-1; the last of equal ones."""
        return max(range(len(self.epochs)), key=lambda i: (self.epochs[i].validation.top1, i))


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
    batches and random numbers that they have in the whole. The model is back on its device at the end, in
    evaluation mode. Raises UserError for a loss that diverges, and for a folder of another training.
    """
    home = device_of(model)
    run = _Run(model, data, config, folder, objective or CrossEntropy(config.label_smoothing))
    history = run.resume()
    for epoch in config.window[len(history.epochs) :]:
        history = run.epoch(epoch, history, progress)
    if history.epochs:
        model.load_state_dict(state.load(folder / BEST)[0])
    place(model, home, torch.contiguous_format)
    model.eval()
    return history


class _Run:
    """One training: the optimizer, the batches, and the checkpoints of a folder."""

    def __init__(self, model: nn.Module, data: Data, config: Training, folder: Path, objective: Objective) -> None:
        self.model, self.data, self.config, self.folder = model, data, config, folder
        self.objective = objective
        self.identity = _identity(model, data, config, objective)
        self.device = resolve_device(config.accelerator)
        self.dtype = resolve_dtype(config.precision, self.device)
        place(model, self.device, torch.channels_last)
        place(objective, self.device, torch.channels_last)
        named = {"model": dict(model.named_parameters()), "objective": objective.trained()}
        self.trained = {f"{part}.{name}": p for part, own in named.items() for name, p in own.items()}
        self.optimizer = optimizer(config, self.trained.values())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = average(model, config.ema)
        self.batches = Batches(data, config.batch_size, config.seed, mixer(config, len(data.classes)))
        self.steps = max(1, round((config.epoch_size or len(data.train)) / self.batches.batch_size))

    @property
    def kept(self) -> nn.Module:
        """What is validated and kept: the averaged weights where there are some."""
        return self.model if self.average is None else self.average.module

    def resume(self) -> History:
        """Take up the folder's last checkpoint, if it has one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LAST
        if not path.exists():
            return History()
        tensors, header = state.load(path)
        if header["identity"] != self.identity:
            raise UserError(
                f"{path}: comes from a training with other settings, data or start weights; "
                "give another folder, or remove this one to start over"
            )
        parts = state.split(tensors)
        self.model.load_state_dict(parts["model"])
        self.objective.load_state_dict(parts.get("objective", {}), strict=False)  # a teacher is not in there
        state.restore_optimizer(self.trained, self.optimizer, parts.get("optimizer", {}))
        if self.average is not None:
            self.average.load_state_dict(parts["ema"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(header["scaler"])
        return _history(header)

    def epoch(self, epoch: int, history: History, progress: Progress) -> History:
        """Train and validate one epoch, then put it on disk."""
        with progress.bar(f"epoch {epoch + 1}/{self.config.epochs}", self.steps) as bar:
            known = f"  validation {history.epochs[-1].validation.top1:.2%}" if history.epochs else ""
            loss = self._train(epoch, bar, known)
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
            stack.enter_context(_reproducible(self.config.seed + epoch, self.device))
            # Closed at once on Ctrl-C, not when the traceback that holds it is dropped.
            stream = stack.enter_context(closing(self.batches.stream(first, first + self.steps)))
            for step, (x, y) in enumerate(stream, first):
                loss = self._step(step, to_device(x, self.device), torch.from_numpy(y).to(self.device))
                self._check(loss, "loss", step)
                total += loss
                bar.advance(1, f"loss {loss:.3f}{known}")
        return total / self.steps

    def _step(self, step: int, x: Tensor, y: Tensor) -> float:
        """Take one step down the gradient; return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, step, self.steps)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss: Tensor = self.objective(self.model, x, y)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.item()

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
            state.save(self.folder / BEST, self.kept.state_dict(), header)
        parts = {
            "model": self.model.state_dict(),
            "objective": self.objective.trained(),
            "optimizer": state.of_optimizer(self.trained, self.optimizer),
            "ema": self.average.state_dict() if self.average is not None else {},
        }
        state.save(self.folder / LAST, state.joined(parts), {**header, "scaler": self.scaler.state_dict()})


def _history(header: dict[str, Any]) -> History:
    """Read the epochs out of a checkpoint's header."""
    return History(tuple(Epoch(e["loss"], Score(**e["validation"])) for e in header["epochs"]))


def _identity(model: nn.Module, data: Data, config: Training, objective: Objective) -> str:
    """Return a digest of what a run starts from: settings, start weights, size of the data."""
    descended = (type(objective).__qualname__, objective.extra_repr())
    h = hashlib.sha256(repr((config, len(data.train), len(data.validation), descended)).encode())
    for name, tensor in (*model.state_dict().items(), *objective.state_dict().items()):
        h.update(name.encode())
        h.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


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
