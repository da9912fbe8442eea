"""Which units of channels nobody needs, given who reads them and what they add to what is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pipeline.pruning.channels import Ids
from pipeline.pruning.readers import Mask, Reader

LARGEST_RATIO = 16.0  # by which a carrier's weights may grow: what is beyond would grow rounding errors as much


@dataclass(frozen=True)
class Removal:
    """The classes that go, and where their constants are kept.

    `removed` is indexed by class; its last entry stands for -1, what carries no channel, and is False. Classes
    that go because a carrier takes their weights over are in `merges`, with their carrier.
    """

    removed: Mask
    merges: Mapping[int, int]
    carriers: frozenset[int]
    last: frozenset[int]  # dead, kept so that no layer is empty


@dataclass(frozen=True)
class Merge:
    """Input position `source` of a reader goes; `ratio` times its weights are added to those of `target`."""

    reader: int
    source: int
    target: int
    ratio: float


Borders = Mapping[int, tuple[Reader, Mask]]


def choose(readers: Sequence[Reader], units: Mapping[str, Ids], candidates: Mask) -> Removal:
    """Return the largest removal among `candidates`, a mask like `Removal.removed`, that changes no output.

    A unit stays where a layer that stays reads from it what depends on the model's input. Where all that layers
    read is constant, but cannot be folded because it meets a padded border, units go all but one, which takes
    over what the others added; and no group goes completely.
    """
    carriers: dict[str, tuple[int, ...]] = {}
    last: frozenset[int] = frozenset()
    while True:
        stay = {*last, *chain(*carriers.values())}
        removed = unneeded(readers, candidates & ~np.isin(np.arange(len(candidates)), list(stay)))
        borders = borders_met(readers, removed)
        found = {name: _merged(borders, classes, carriers.get(name, ())) for name, classes in units.items()}
        carriers = {name: c for name, (_, c) in found.items() if c}
        emptied = {int(classes[0]) for n, classes in units.items() if n not in carriers and removed[classes].all()}
        if stay.issuperset(chain(emptied, *carriers.values())):
            merges = {unit: carrier for merged, _ in found.values() for unit, carrier in merged.items()}
            return Removal(removed, merges, frozenset(chain(*carriers.values())), last)
        last |= emptied


def unneeded(readers: Sequence[Reader], candidates: Mask) -> Mask:
    """Return the candidates from which nobody who stays reads anything but constants."""
    removed = candidates.copy()
    count = -1
    while count != (count := int(removed.sum())):
        for reader in reversed(readers):
            varying = ~(reader.foldable | reader.mergeable)
            removed[reader.inputs[varying & reader.read(~removed[reader.outputs])]] = False
    return removed


def borders_met(readers: Sequence[Reader], removed: Mask) -> Borders:
    """Return the readers, by number, of channels that go but cannot be folded, with a mask of their positions."""
    masks = {
        n: r.mergeable & removed[r.inputs] & r.read(~removed[r.outputs])
        for n, r in enumerate(readers)
        if r.mergeable.any()
    }
    return {n: (readers[n], mask) for n, mask in masks.items() if mask.any()}


def _merged(borders: Borders, classes: Ids, carriers: tuple[int, ...]) -> tuple[dict[int, int], tuple[int, ...]]:
    """Find a carrier for every unit of a group that needs one; units that find none become carriers."""
    strength = np.zeros(len(classes))
    for reader, mask in borders.values():
        largest = reader.product.x.abs().amax(-1).flatten().numpy()
        at = classes[:, None] == reader.inputs[mask]
        strength += np.where(at, largest[mask], 0).sum(1)
    merged = {}
    for u in np.argsort(-strength, kind="stable")[: np.count_nonzero(strength)]:
        unit = int(classes[u])
        able = (c for c in carriers if merging(borders, unit, c) is not None)
        if (carrier := next(able, None)) is None:
            carriers = (*carriers, unit)
        else:
            merged[unit] = carrier
    return merged, carriers


def merging(borders: Borders, unit: int, carrier: int) -> list[Merge] | None:
    """Return how a unit's weights go into its carrier's; None where they cannot."""
    merges = []
    for number, (reader, mask) in borders.items():
        whole, targets = (np.flatnonzero(reader.inputs == c) for c in (unit, carrier))
        if not mask[whole].any():
            continue
        if len(whole) != len(targets):
            return None
        pairs = zip(whole.tolist(), targets.tolist(), strict=True)
        merges += [Merge(number, s, t, _ratio(reader, s, t)) for s, t in pairs if mask[s]]
    return merges if all(abs(m.ratio) <= LARGEST_RATIO for m in merges) else None


def _ratio(reader: Reader, source: int, target: int) -> float:
    """Return by how much a channel exceeds another at all positions; infinite where that differs."""
    if source // reader.per_group != target // reader.per_group:
        return np.inf
    x = reader.product.x.flatten(0, 1)
    a, b = x[source].numpy(), x[target].numpy()
    at = int(np.abs(b).argmax())
    ratio = float(a[at] / b[at]) if b[at] else np.inf
    same = np.isfinite(ratio) and np.allclose(a, ratio * b, rtol=1e-12, atol=0)
    return ratio if same else np.inf
