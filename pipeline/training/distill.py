"""Distillation: a student that learns from its teacher's answers, features and relations, and from the labels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.training.config import Distillation, Training
from pipeline.training.objective import Objective, cross_entropy
from pipeline.training.relations import angle_loss, distance_loss
from pipeline.training.taps import Tap, match, recording


class Distilled(Objective):
    """The weighted sum that `settings` describe, of the losses with the labels and with a fixed teacher.

    The teacher sees the batch that the student sees, in evaluation mode; it becomes the objective's own. The
    regressors of feature distillation start from `training.seed`. `example` is inputs `(N, ...)`, on which taps
    are matched. Raises UserError for taps that are not there, and for features where nothing matches.
    """

    def __init__(
        self, settings: Distillation, training: Training, student: nn.Module, teacher: nn.Module, example: Tensor
    ) -> None:
        super().__init__()
        self.settings, self.label_smoothing = settings, training.label_smoothing
        wanted = settings.feature or settings.relation_distance or settings.relation_angle
        self.taps = match(student, teacher, example, settings.taps) if wanted else []
        if settings.feature and not self.taps:
            raise UserError(
                "distill.feature: teacher and student have no module of the same name that gives features of one "
                "size; leave feature at 0 and give weight to response and the relations"
            )
        with torch.random.fork_rng([]):
            torch.manual_seed(training.seed)
            maps = self.taps if settings.feature else []
            self.regressors = nn.ModuleList(nn.Linear(tap.student, tap.teacher) for tap in maps)
        self.teacher = teacher.requires_grad_(False)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{self.settings}, label_smoothing={self.label_smoothing}, taps={self.taps}"

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the weighted sum; see `Objective`."""
        names = [tap.name for tap in self.taps]
        self.teacher.eval()
        with torch.no_grad(), recording(self.teacher, names) as theirs:
            taught = self.teacher(x)
        with recording(model, names) as ours:
            logits = model(x)
        student = [ours[name][0] for name in names]
        teacher = [theirs[name][0] for name in names]
        s = self.settings
        loss = s.hard * cross_entropy(logits, y, self.label_smoothing) if s.hard else logits.new_zeros(())
        if s.response:
            loss = loss + s.response * response_loss(logits, taught, s.temperature)
        if s.feature:
            loss = loss + s.feature * self._feature_loss(student, teacher)
        # The last tap is what the classifier sees; without one its answer has to do.
        last = self.taps[-1] if self.taps else None
        one, other = (student[-1], teacher[-1]) if last else (logits, taught)
        return loss + self._relation_loss(embedding(one, last), embedding(other, last))

    def _feature_loss(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Return the mean over the taps of the squared error after regression."""
        losses = []
        for tap, regressor, ours, theirs in zip(self.taps, self.regressors, student, teacher, strict=True):
            guess = regressor(ours.movedim(tap.dim, -1))
            losses.append(F.mse_loss(guess.float(), theirs.movedim(tap.dim, -1).float()))
        return torch.stack(losses).mean()

    def _relation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the weighted sum over both kinds of relations, in float32: bfloat16 confuses near samples."""
        loss = student.new_zeros(())
        with torch.autocast(student.device.type, enabled=False):
            if self.settings.relation_distance:
                loss = loss + self.settings.relation_distance * distance_loss(student, teacher)
            if self.settings.relation_angle:
                loss = loss + self.settings.relation_angle * angle_loss(student, teacher)
        return loss


def response_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the divergence KL(teacher‖student) of logits `(N, classes)` at temperature T, batch mean, nats.

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531).
    """
    ours = F.log_softmax(student.float() / temperature, dim=1)
    theirs = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def embedding(features: Tensor, tap: Tap | None) -> Tensor:
    """Return features as `(N, C)` float32, averaged over positions."""
    if tap is None:
        return features.float().flatten(1)
    return features.float().movedim(tap.dim, 1).flatten(2).mean(2) if features.ndim > 2 else features.float()
