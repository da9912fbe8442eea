"""Where two networks are compared: modules of the same name whose outputs are feature maps of the same size."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.plugins import did_you_mean
from pipeline.training.evaluate import evaluating


@dataclass(frozen=True)
class Tap:
    """A module that both networks have, and how its outputs in the two differ."""

    name: str
    dim: int  # the channels'
    student: int  # channels
    teacher: int
    size: tuple[int, ...]  # of the other dimensions, the batch's left out

    @property
    def is_map(self) -> bool:
        """Whether it has more than one position."""
        return any(n > 1 for n in self.size)


@contextmanager
def recording(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """Keep the outputs of the modules `names`, by name in the order they finish, while the context lasts."""
    seen: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def match(student: nn.Module, teacher: nn.Module, example: Tensor, names: Sequence[str] | None = None) -> list[Tap]:
    """Return where to compare the two: at `names`, or by default where each resolution ends.

    Pruning keeps names, and of a module's channels it keeps some; so a tap is a module that runs once in both
    under one name, and whose output differs in at most one dimension, that of the channels. Where the two are
    equal, dimension 1 counts as the channels', of three dimensions the last. By default the last one of each size of
    maps is taken, in the order the teacher finishes them; without any maps the last hidden output `(N, C)`;
    and none if there are none. Raises UserError for a name that is no such module.
    """
    ours, theirs = _outputs(student, example), _outputs(teacher, example)
    taps = {name: tap for name, t in theirs.items() if name in ours and (tap := _tap(name, ours[name], t))}
    if names is not None:
        for name in names:
            if name not in taps:
                raise UserError(
                    f"distill.taps: {name!r} does not run once in both teacher and student with feature maps "
                    f"of one size{did_you_mean(name, taps)}"
                )
        return [taps[name] for name in taps if name in names]
    maps = {tap.size: tap for tap in taps.values() if tap.is_map}
    last = list(maps.values()) or list(taps.values())[-1:]
    return [tap for tap in taps.values() if tap in last]


def _outputs(model: nn.Module, example: Tensor) -> Mapping[str, Tensor]:
    """Return what every module gives that runs once, less the model's own output, in the order they finish."""
    names = [name for name, _ in model.named_modules() if name]
    with evaluating(model), torch.no_grad(), recording(model, names) as seen:
        final = model(example)
    once = {name: outputs[0] for name, outputs in seen.items() if len(outputs) == 1}
    return {name: output for name, output in once.items() if isinstance(output, Tensor) and output is not final}


def _tap(name: str, student: Tensor, teacher: Tensor) -> Tap | None:
    """Return the tap of two outputs; None if they cannot be compared."""
    ndim = teacher.ndim
    if student.ndim != ndim or not 2 <= ndim <= 4 or not (student.is_floating_point() and teacher.is_floating_point()):
        return None
    differ = [d for d in range(ndim) if student.shape[d] != teacher.shape[d]]
    dim = differ[0] if differ else (2 if ndim == 3 else 1)
    if len(differ) > 1 or dim == 0:
        return None
    size = tuple(n for d, n in enumerate(teacher.shape) if d not in (0, dim))
    return Tap(name, dim, student.shape[dim], teacher.shape[dim], size)
