"""Groups: the channels that go together, and every slice of every parameter that goes with each of them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.pruning.boxes import settle
from pipeline.pruning.channels import Alive, Ids
from pipeline.pruning.rules.base import Flow, Role

HEAD, STAGE, FILTER = "head", "stage", "filter"
JOINED = "joined"


@dataclass(frozen=True)
class Member:
    """A dimension of a parameter or buffer and where in it each unit of a group sits.

    `index` has shape (units, n): unit u owns the n positions `index[u]` of dimension `dim`.
    """

    tensor: str
    dim: int
    role: Role
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Units that touch the same dimensions of the same tensors, any of which can go without the others.

    A unit is the smallest set of channels that must go together: one filter of a plain convolution with its
    norm and the columns that read it, one filter of every convolution that a residual stage adds up, or all
    filters of one group of a grouped convolution.
    """

    name: str  # of the first layer that makes its channels
    units: int
    channels_per_unit: int
    members: tuple[Member, ...]
    kind: str = FILTER  # "stage" where activations of several layers are added up, "head" for attention heads
    classes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # of every unit, its id class

    @property
    def channels(self) -> int:
        """Width in channels, each counted once however many layers make it."""
        return self.units * self.channels_per_unit

    @property
    def form(self) -> tuple[tuple[str, int, str], ...]:
        """What kinds of tensor dimensions meet in the group, whatever their sizes and number."""
        kinds = {(m.tensor.rpartition(".")[2], m.dim, m.role.value) for m in self.members}
        return tuple(sorted(kinds))

    @property
    def producers(self) -> tuple[Member, ...]:
        """The weights whose slices make the channels; what a magnitude criterion sums over."""
        return tuple(m for m in self.members if m.role is Role.OUT)


@dataclass(frozen=True)
class Structure:
    """What can be pruned in a model, and what cannot and why."""

    groups: tuple[Group, ...]
    frozen: Mapping[str, tuple[str, ...]]  # op -> weights whose channels it keeps from being pruned
    channels: int  # of all groups, and those that ops without a rule have frozen
    roots: Ids  # class of every id

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The number of the group that every id is in, shape (ids,); -1 for none."""
        by_class = np.full(len(self.roots), -1, np.int64)
        for number, group in enumerate(self.groups):
            by_class[group.classes] = number
        return by_class[self.roots]

    def of_kinds(self, kinds: Collection[str]) -> tuple[Group, ...]:
        """Return the groups of these kinds, in the order of the layers that make them."""
        return tuple(group for group in self.groups if group.kind in kinds)

    def alive(self, kept: Mapping[str, Sequence[int]]) -> Alive:
        """Return, for every id, whether its channel stays when groups keep these units; others keep all."""
        stays = np.ones(len(self.roots), bool)
        for group in self.groups:
            if group.name in kept:
                stays[np.delete(group.classes, list(kept[group.name]))] = False
        return stays[self.roots]


def ignore(flow: Flow, patterns: Iterable[str]) -> None:
    """Freeze the channels that the matching layers make; their inputs can still be pruned.

    A pattern is the name of a module or parameter, wildcards allowed, and covers what is inside the module.
    Raises UserError for a pattern that matches nothing.
    """
    for pattern in patterns:
        role = roles(flow)
        for name in matching(flow.tensors, pattern):
            dims = flow.tensors[name].dims
            flow.keep(*(ids for d, ids in enumerate(dims) if role(name, d) is not Role.IN))


def roles(flow: Flow) -> Callable[[str, int], Role]:
    """Return a function that tells the role of a tensor's dimension; where it has several, making channels counts."""
    made, read = flow.marked(Role.OUT.value), flow.marked(Role.IN.value)

    def role(name: str, dim: int) -> Role:
        ids = flow.tensors[name].dims[dim]
        if ids is None:
            return Role.ALONG
        return Role.OUT if made[ids].any() else Role.IN if read[ids].any() else Role.ALONG

    return role


def matching(tensors: Collection[str], pattern: str) -> list[str]:
    """Return the tensors that `pattern` names, or whose module it names. Raises UserError where there is none."""
    matched = [name for name in tensors if any(fnmatchcase(p, pattern) for p in _paths(name))]
    if not matched:
        layers = ", ".join(sorted({name.partition(".")[0] for name in tensors}))
        raise UserError(f"ignore: {pattern!r} names no layer with parameters; the model has: {layers}")
    return matched


def _paths(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def structure(flow: Flow, *, heads: bool = True) -> Structure:
    """Return the groups of a walked graph, in the order of their first producers.

    With `heads`, attention loses whole heads where it can, else the same places of every head.
    """
    settle(flow, heads=heads)
    roots, frozen = flow.channels.roots(), flow.channels.frozen()
    role = roles(flow)
    labelled = ((n, d, ids) for n, t in flow.tensors.items() for d, ids in enumerate(t.dims))
    entries = [Entry(name, d, roots[ids], role(name, d)) for name, d, ids in labelled if ids is not None]
    made = [e for e in entries if e.role is Role.OUT]
    width = _largest_count((e.classes for e in made), len(roots))
    live = np.flatnonzero((width > 0) & ~frozen)  # a class's root is its smallest id
    signature = _signature(entries, len(roots))[live]
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    order = np.argsort(first)
    reasons = flow.channels.reasons()
    named = np.unique(np.concatenate([live, *reasons.values()]))
    kinds = {what: np.unique(roots[flow.marked(what)]) for what in (HEAD, JOINED)}
    return Structure(
        groups=_groups(entries, width, [live[inverse == g] for g in order], kinds),
        frozen=_blocked(made, reasons),
        channels=int(width[named].sum()),
        roots=roots,
    )


@dataclass(frozen=True)
class Entry:
    """A dimension of a tensor with the class of each of its positions."""

    tensor: str
    dim: int
    classes: Ids
    role: Role


def _largest_count(dims: Iterable[Ids], size: int) -> Ids:
    """Return per class the most positions that it holds in one dimension."""
    largest = np.zeros(size, np.int64)
    for ids in dims:
        classes, counts = np.unique(ids, return_counts=True)
        largest[classes] = np.maximum(largest[classes], counts)
    return largest


def _signature(entries: list[Entry], size: int) -> NDArray[np.uint64]:
    """Hash, per class, the dimensions it is in with how often: classes of one hash form a group."""
    salt = np.random.default_rng(0).integers(1, 2**63, len(entries), dtype=np.uint64)
    total = np.zeros(size, np.uint64)
    for entry, value in zip(entries, salt, strict=True):
        np.add.at(total, entry.classes, value)
    return total


def _groups(entries: list[Entry], width: Ids, classes: list[Ids], kinds: Mapping[str, Ids]) -> tuple[Group, ...]:
    group_of, unit_of = (np.full(len(width), -1, np.int64) for _ in range(2))
    for g, roots in enumerate(classes):
        group_of[roots], unit_of[roots] = g, np.arange(len(roots))
    members: list[list[Member]] = [[] for _ in classes]
    for e in entries:
        groups = group_of[e.classes]
        for g in np.unique(groups[groups >= 0]):
            positions = np.flatnonzero(groups == g)
            by_unit = positions[np.argsort(unit_of[e.classes[positions]], kind="stable")]
            members[g].append(Member(e.tensor, e.dim, e.role, by_unit.reshape(len(classes[g]), -1)))
    return tuple(
        Group(name, len(roots), int(width[roots[0]]), tuple(touched), _kind(roots[0], touched, kinds), roots)
        for name, roots, touched in zip(_unique_names(members), classes, members, strict=True)
    )


def _kind(root: int, members: Sequence[Member], kinds: Mapping[str, Ids]) -> str:
    """Name what a group is: only where several weights make what is added up is it a stage."""
    if np.isin(root, kinds[HEAD]):
        return HEAD
    several = len({m.tensor for m in members if m.role is Role.OUT}) > 1
    return STAGE if several and np.isin(root, kinds[JOINED]) else FILTER


def _unique_names(members: list[list[Member]]) -> list[str]:
    """Name groups by the first layer that makes them, numbered where one layer makes several."""
    seen: dict[str, int] = {}
    names = []
    for group in members:
        tensor = next(m.tensor for m in group if m.role is Role.OUT)
        layer = tensor.rpartition(".")[0] or tensor
        seen[layer] = seen.get(layer, 0) + 1
        names.append(layer if seen[layer] == 1 else f"{layer}#{seen[layer]}")
    return names


def _blocked(made: list[Entry], reasons: Mapping[str, Ids]) -> dict[str, tuple[str, ...]]:
    def weights(roots: Ids) -> tuple[str, ...]:
        return tuple(e.tensor for e in made if np.isin(e.classes, roots).any())

    return {why: names for why, roots in reasons.items() if (names := weights(roots))}
