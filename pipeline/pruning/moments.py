"""What layers read, at sampled places, as second moments: all that a least-squares fit of their weights needs."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

from pipeline.pruning.evidence import Evidence
from pipeline.pruning.taps import Tap, reading_axis
from pipeline.pruning.trace import Captured, arguments, op_name

POSITIONS = 10  # of every image, as ThiNet samples them
RIDGE = 1e-6  # of the mean diagonal: where the samples say nothing, weights stay as they were


@dataclass(frozen=True, eq=False)
class Reading:
    """One call of a dense or grouped convolution or a linear layer: its weight times patches of what it reads.

    `kernel` and the like have an entry per spatial dimension, none for a linear layer.
    """

    node: fx.Node
    source: fx.Node
    axis: int  # of the source, where its channels are
    weight: str
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def tap(self) -> Tap:
        """A tap on what it reads, as a whole."""
        return Tap("", self.source, self.axis, np.empty((0, 0), np.int64), self.node, self.weight)

    @property
    def channels(self) -> int:
        """How many it reads."""
        return int(self.source.meta["val"].shape[self.axis])

    @property
    def width(self) -> int:
        """Entries of a patch, in one group of the convolution."""
        return self.channels // self.groups * prod(self.kernel)

    @property
    def places(self) -> int:
        """How many outputs every one of its output channels has, over the batch."""
        shape = self.source.meta["val"].shape
        return int(prod(shape[: self.axis])) * prod(self._outputs(shape[self.axis + 1 :]))

    def patches(self, value: Tensor, places: Tensor) -> Tensor:
        """Return what goes into the outputs at `places`, (places, groups, width), ordered as its weight is.

        `places` count the outputs of one channel, over the batch.
        """
        x = value.flatten(0, -2) if not self.kernel else value if self.axis else value[None]
        if any(n for ends in self.padding for n in ends):
            x = F.pad(x, [n for ends in reversed(self.padding) for n in ends])
        outputs = self._outputs(value.shape[self.axis + 1 :])
        image, rest = places // prod(outputs), places % prod(outputs)
        index, scale = torch.zeros_like(places)[:, None], 1
        for d in reversed(range(len(outputs))):  # the last dimension runs fastest, of outputs, inputs and kernel
            taps = torch.arange(self.kernel[d], device=places.device) * self.dilation[d]
            along = (rest % outputs[d] * self.stride[d])[:, None] + taps
            index = (along[:, :, None] * scale + index[:, None, :]).flatten(1)
            rest, scale = rest // outputs[d], scale * x.shape[2 + d]
        found = x.reshape(*x.shape[:2], -1)[image[:, None], :, index]  # (places, kernel, channels)
        return found.transpose(1, 2).reshape(len(places), self.groups, self.width)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return its weight as (groups, outputs of a group, width), in double precision."""
        return weight.detach().cpu().double().reshape(self.groups, -1, self.width)

    def spread(self, per_channel: NDArray[Any]) -> Tensor:
        """Return what is said of every channel for every entry of a patch, (groups, width)."""
        return torch.from_numpy(per_channel).repeat_interleave(prod(self.kernel)).reshape(self.groups, -1)

    def _outputs(self, sizes: Sequence[int]) -> list[int]:
        given = zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=False)
        return [(n + sum(ends) - d * (k - 1) - 1) // s + 1 for n, k, s, ends, d in given]


def readings(captured: Captured) -> dict[fx.Node, Reading]:
    """Return every call of a layer that reads channels with a weight of the model; transposed ones are left out."""
    found = {}
    for node in captured.graph.nodes:
        axis = reading_axis(node)
        if axis is None or "transpose" in op_name(node):
            continue
        given = arguments(node)
        name = captured.tensors.get(given["weight"].name, "")
        if name:
            kernel = tuple(given["weight"].meta["val"].shape[2:])
            geometry = _geometry(given, kernel) if kernel else ()
            found[node] = Reading(node, given["input"], axis, name, kernel, *geometry)
    return found


def _geometry(given: Mapping[str, Any], kernel: tuple[int, ...]) -> tuple[Any, ...]:
    """Return stride, padding before and after, dilation and groups."""

    def each(value: Any) -> tuple[int, ...]:
        entries = tuple(value) if isinstance(value, list | tuple) else (value,)
        return entries * len(kernel) if len(entries) == 1 else entries

    dilation, padding = each(given["dilation"]), given["padding"]
    if isinstance(padding, str):
        sums = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        ends = tuple((n // 2, n - n // 2) for n in sums)
    else:
        ends = tuple((n, n) for n in each(padding))
    return each(given["stride"]), ends, dilation, given["groups"]


class Sink(Protocol):
    """What takes the patches that a layer reads."""

    def add(self, rows: Tensor) -> None:
        """Take some, (samples, groups, width), on the CPU in double precision."""


class Moments:
    """Sums of x xᵀ over the patches x that a layer reads, per group of its convolution.

    Takes the lesser of two forms: the sums, 8·width² bytes a group, or all the patches, 4·width·samples. 512
    channels under a 3 × 3 kernel have width 4608: 170 MB of sums, but 47 MB for 10 places of each of 256 images.
    """

    def __init__(self, samples: int, groups: int, width: int) -> None:
        self._rows: list[Tensor] = []
        self._sums = None if samples < 2 * width else torch.zeros(groups, width, width, dtype=torch.float64)

    @classmethod
    def of(cls, calls: Sequence[Reading], samples: int) -> "Moments":
        """Return those of a layer, of all its calls together."""
        return cls(samples, calls[0].groups, calls[0].width)

    def add(self, rows: Tensor) -> None:
        """Take patches, (samples, groups, width)."""
        if self._sums is None:
            self._rows.append(rows.float())
        else:
            by_group = rows.transpose(0, 1)
            self._sums.baddbmm_(by_group.mT, by_group)

    def between(self, group: int, some: Tensor, others: Tensor) -> Tensor:
        """Return the block of sums of these entries of a patch with the others."""
        if self._sums is not None:
            return self._sums[group][some][:, others]
        return self._of(group, some).T @ self._of(group, others)

    def gram(self, weight: Tensor, owner: Tensor, units: int) -> Tensor:
        """Return how the units' contributions to the layer's outputs vary together, (units, units).

        G[u, v] = Σ x_u·x_v over samples and outputs, where x_u is what the columns of unit u add to an output.
        `weight` is (groups, outputs of a group, width), `owner` the unit of every column, (groups, width), or -1.
        """
        total = torch.zeros(units, units, dtype=torch.float64)
        for group, (rows, of) in enumerate(zip(weight, owner, strict=True)):
            mine = (of >= 0).nonzero()[:, 0]
            to_unit = F.one_hot(of[mine], units).double()
            for first in range(0, len(mine), 1024):  # bounds what is held at a time
                part = slice(first, first + 1024)
                some = mine[part]
                product = self.between(group, some, mine) * (rows[:, some].T @ rows[:, mine])
                total += to_unit[part].T @ (product @ to_unit)
        return (total + total.T) / 2

    def regress(self, group: int, kept: Tensor, gone: Tensor, weight: Tensor) -> Tensor:
        """Return what to add to the columns `kept` of a weight so that they make up for those `gone`.

        Ridge regression of X_gone W_goneᵀ on X_kept. `weight` is (outputs, gone); the result (outputs, kept).
        """
        if self._sums is None and sum(map(len, self._rows)) < len(kept):
            x = self._of(group, kept)
            lost = self._of(group, gone) @ weight.T
            return (x.T @ _ridge_solve(x @ x.T, lost, float(x.square().sum()) / len(kept))).T
        square, lost = self.between(group, kept, kept), self.between(group, kept, gone) @ weight.T
        return _ridge_solve(square, lost, float(square.trace()) / len(kept)).T

    def _of(self, group: int, entries: Tensor) -> Tensor:
        self._rows = [torch.cat(self._rows)]
        return self._rows[0][:, group].index_select(1, entries).double()


def _ridge_solve(square: Tensor, right: Tensor, scale: float) -> Tensor:
    """Solve (square + ridge) x = right, where the ridge is a small part of `scale`.

    Zeros where that is zero, NaN where it is not finite.
    """
    if scale == 0 or not isfinite(scale):
        return torch.full_like(right, scale * 0)
    square.diagonal().add_(RIDGE * scale)
    return torch.cholesky_solve(right, torch.linalg.cholesky(square))


def ridge_solve(square: Tensor, right: Tensor) -> Tensor:
    """Solve square x = right for a square that may be singular: with a ridge, small relative to its trace."""
    return _ridge_solve(square.clone(), right, float(square.trace()) / max(len(square), 1))


def gather(evidence: Evidence, sinks: Mapping[str, Sink], calls: Iterable[Reading], positions: int, what: str) -> None:
    """Run the samples through the watched graph once; sinks, by weight, get the patches that these calls read.

    Of every image and call up to `positions` places, drawn from the evidence's seed whatever the batch size.
    """
    images = len(evidence.seen.batches[0][1])
    looks = [(call.tap, _Look(call, sinks[call.weight], images, positions, evidence.seed)) for call in calls]
    evidence.observe(looks, what)


def samples_of(evidence: Evidence, calls: Iterable[Reading], positions: int) -> int:
    """Return how many patches `gather` takes of a layer's calls."""
    images = len(evidence.seen.batches[0][1])
    taken = sum(np.prod(_per_batch(call.places, images, positions)) for call in calls)
    return int(taken) * len(evidence.seen.batches)


def _per_batch(places: int, images: int, positions: int) -> tuple[int, int]:
    """Return how many images a layer sees in a batch, and how many places of each to take."""
    images = images if places % images == 0 else 1  # where images mix, the batch is seen as one
    return images, min(positions, places // images)


class _Look:
    """Samples what one call reads."""

    def __init__(self, call: Reading, sink: Sink, images: int, positions: int, seed: int) -> None:
        self._call, self._sink = call, sink
        self._images, self._taken = _per_batch(call.places, images, positions)
        self._random = np.random.default_rng([seed, zlib.crc32(call.node.name.encode())])

    def __call__(self, value: Tensor) -> None:
        each = self._call.places // self._images
        if each == self._taken:
            drawn = np.tile(np.arange(each), (self._images, 1))
        else:
            drawn = self._random.random((self._images, each)).argpartition(self._taken, axis=1)[:, : self._taken]
        places = (drawn + np.arange(self._images)[:, None] * each).ravel()
        patches = self._call.patches(value, torch.from_numpy(places).to(value.device))
        self._sink.add(patches.cpu().double())
