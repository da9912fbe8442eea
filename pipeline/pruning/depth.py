"""Whole modules that can go: residual blocks, and layers whose output has the shape of their input.

A module that is removed passes its input on. Which ones matter least is measured by how little they change
what passes through them (block influence: Men et al., ShortGPT, arXiv 2403.03853, 2024).
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cosine_similarity
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.pruning.counters import work
from pipeline.pruning.interpret import GraphRunner
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Captured, Inputs, op_name, stack_of
from pipeline.pruning.verify import comparable, seeded

BLOCK, LAYER = "block", "layer"

_RECTIFIERS = ("relu", "relu6", "hardtanh")
_RECTIFIED = (*_RECTIFIERS, "max_pool2d")  # as networks use it, pooling follows one
_COPIES = ("dropout", "clone", "contiguous")


@dataclass(frozen=True)
class Site:
    """A module that can be removed: the values before and after it, and what kind of module it is."""

    name: str
    entry: fx.Node
    exit: fx.Node
    kind: str

    def overlaps(self, other: "Site") -> bool:
        """Whether one of the two is inside the other, or is it."""
        a, b = f"{self.name}.", f"{other.name}."
        return a.startswith(b) or b.startswith(a)


def sites(captured: Captured, kinds: Collection[str]) -> list[Site]:
    """Return the modules that multiply and can be removed, in the order they run.

    A "block" adds something to its input, and its input would pass the activation after that addition
    unchanged; of nested ones the innermost counts. A "layer" is any other module whose one output has the
    shape of its one input.
    """
    multiplies = {item.node for item in work(captured)}
    found = []
    for name, nodes in _inside(captured).items():
        useful = name and any(node.name in multiplies for node in nodes)
        if useful and (ends := _ends(captured, nodes)) is not None:
            kind = BLOCK if _is_residual(*ends) else LAYER
            if kind in kinds:
                found.append(Site(name, *ends, kind))
    blocks = [s for s in found if s.kind == BLOCK]
    return [s for s in found if s.kind != BLOCK or s in _innermost(blocks)]


def _innermost(found: Sequence[Site]) -> list[Site]:
    """Return the sites that contain no other."""
    return [s for s in found if not any(o is not s and o.name.startswith(f"{s.name}.") for o in found)]


def _inside(captured: Captured) -> dict[str, list[fx.Node]]:
    """Return the ops of every module that is called once, by its name."""
    inside: dict[str, list[fx.Node]] = {}
    again = set()
    for node in captured.graph.nodes:
        if node.op == "call_function":
            for name in stack_of(node):
                plain, _, call = name.partition("@")
                inside.setdefault(plain, []).append(node)
                if call:
                    again.add(plain)
    return {name: nodes for name, nodes in inside.items() if name not in again}


def _ends(captured: Captured, nodes: Sequence[fx.Node]) -> tuple[fx.Node, fx.Node] | None:
    """Return the one value that goes into some ops and the one that comes out; None unless they are alike."""
    own = set(nodes)
    held = {n for n in captured.graph.nodes if n.name in captured.tensors or n.name in captured.constants}
    entries = {source for node in nodes for source in node.all_input_nodes if source not in own} - held
    exits = {node for node in nodes if any(user not in own for user in node.users)}
    if len(entries) != 1 or len(exits) != 1:
        return None
    (entry,), (out,) = entries, exits
    before, after = entry.meta.get("val"), out.meta.get("val")
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)) or any(_writes(node, entry) for node in nodes):
        return None
    return (entry, out) if before.shape == after.shape and before.dtype == after.dtype else None


def _writes(node: fx.Node, value: fx.Node) -> bool:
    """Whether an op works in place on a value."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and node.args[:1] == (value,)


def _is_residual(entry: fx.Node, out: fx.Node) -> bool:
    """Whether the result is the input plus something, after which no activation would change the input."""
    if op_name(out) in _RECTIFIERS:
        if not (entry.op == "call_function" and op_name(entry) in _RECTIFIED):
            return False
        (out,) = out.all_input_nodes[:1]
    return out is not entry and _passes(entry, out)


def _passes(entry: fx.Node, node: fx.Node) -> bool:
    """Whether a value is the entry, or the entry plus something."""
    if node is entry:
        return True
    if node.op != "call_function" or op_name(node) not in ("add", *_COPIES):
        return False
    return any(_passes(entry, source) for source in node.all_input_nodes)


class _Influence(GraphRunner):
    """Measures how far what comes out of every site is from what goes in."""

    def __init__(self, captured: Captured, state: Mapping[str, Tensor], found: Sequence[Site]) -> None:
        super().__init__(captured, state)
        self._at: dict[fx.Node, list[Site]] = {}
        for site in found:
            self._at.setdefault(site.exit, []).append(site)
        self._needed = {site.entry for site in found}
        self._before: dict[fx.Node, Tensor] = {}
        self.measured: dict[str, list[float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one op, and compare where a site ends."""
        result = super().run_node(n)
        if n in self._needed:
            self._before[n] = result.clone()  # an op in place may follow
        for site in self._at.get(n, ()):
            before, after = (t.flatten(1).double() for t in (self._before[site.entry], result))
            far = 1 - float(cosine_similarity(before, after, dim=1).mean())
            self.measured.setdefault(site.name, []).append(far)
        return result


def influence(
    captured: Captured, model: nn.Module, found: Sequence[Site], batches: Iterable[Inputs]
) -> dict[str, float]:
    """Return 1 - cosine similarity of every site's input and output, averaged over samples; 0 changes nothing."""
    runner = _Influence(captured, tensors(model), found)
    for inputs in batches:
        with seeded(model):
            runner.outputs(pytree.tree_leaves(inputs))
    return {name: sum(measured) / len(measured) for name, measured in runner.measured.items()}


def pick(found: Sequence[Site], scores: Mapping[str, float], shares: Mapping[str, float], goal: float) -> list[Site]:
    """Return sites of least influence, none inside another, whose shares come nearest to `goal` together."""
    picked: list[Site] = []
    for site in sorted(found, key=lambda s: scores[s.name]):
        gone = sum(shares[s.name] for s in picked)
        nearer = abs(gone + shares[site.name] - goal) < abs(gone - goal)
        if nearer and not any(site.overlaps(other) for other in picked):
            picked.append(site)
    return picked


def shares(captured: Captured, model: nn.Module, found: Sequence[Site], target: str) -> dict[str, float]:
    """Return what share of `target` each site has: of "macs", "params", "bytes", or of the sites ("ratio")."""
    if target == "ratio":
        return dict.fromkeys((s.name for s in found), 1 / max(len(_innermost(found)), 1))
    if target == "macs":
        inside = _inside(captured)
        macs = {item.node: item.macs for item in work(captured)}
        return {s.name: sum(macs.get(n.name, 0) for n in inside[s.name]) / max(sum(macs.values()), 1) for s in found}

    def size(module: nn.Module) -> int:
        held = [*module.parameters(), *(module.buffers() if target == "bytes" else ())]
        return sum(t.numel() * (t.itemsize if target == "bytes" else 1) for t in held)

    return {s.name: size(model.get_submodule(s.name)) / max(size(model), 1) for s in found}


def without(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Return a copy of `model` in which modules pass their input on.

    Raises UserError for a name that the model does not have.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise UserError(f"the plan does not fit {type(model).__name__}: it has no module {name!r}")
    return copy.deepcopy(model, {id(modules[name]): nn.Identity() for name in names})


class Bypass(GraphRunner):
    """Runs the unpruned graph with the sites' outputs replaced by their inputs: what a removal must equal."""

    def __init__(self, captured: Captured, model: nn.Module, found: Sequence[Site]) -> None:
        super().__init__(captured, {name: comparable(tensor) for name, tensor in tensors(model).items()})
        self._at = {site.exit: site.entry for site in found}
        self._needed = {site.entry for site in found}
        self._before: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one op; where a site ends, return what went into it."""
        result = self._before[self._at[n]] if n in self._at else super().run_node(n)
        if n in self._needed:
            self._before[n] = result.clone()
        return result
