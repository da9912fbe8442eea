"""Surgery on a captured graph: tensors, constants and every number in it that a cut changes.

The result is a module that runs the graph. It trains, copies, exports and can be pruned again like any other.
What the user's forward decides in Python is fixed as it was on the example inputs in evaluation mode; layers
that differ in training mode by an op's own argument (BatchNorm, dropout) follow `train()` and `eval()`.
"""

import inspect
import operator
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeInfo

from pipeline.errors import UserError
from pipeline.pruning import surgery
from pipeline.pruning.channels import Alive, Ids, kept, stays
from pipeline.pruning.network import Network, network_on
from pipeline.pruning.rules.base import Flow, Labels, Selection
from pipeline.pruning.settings import Settings
from pipeline.pruning.skeleton import Pruned, Signature, hold, norm_places, norms_of, skeleton
from pipeline.pruning.trace import Inputs, arguments, module_of, op_name

_SIZES = ("size", "shape", "sizes")  # arguments in which -1 stands for what is left
_VIEWS = ("view", "reshape", "_unsafe_view")
_MODES = ("training", "train", "use_input_stats")  # arguments that say whether a module is in training mode


def cut(model: nn.Module, known: Network, alive: Alive) -> fx.GraphModule:
    """Return the graph of `model` with only the channels `alive`, on copies of its tensors.

    It runs on any batch where `known.batch` is given, else on the example's size only.
    """
    places = norm_places(model, known.captured)
    root = skeleton(model, norms_of(model, places), kept_of(known.flow, alive))
    graph = _Cutter(known, alive, root, places).graph()
    names = list(inspect.signature(model.forward).parameters)
    spec = known.captured.program.call_spec
    count = spec.in_spec.child(0).num_children
    names = names[:count] if len(names) >= count else [f"arg_{i}" for i in range(count)]
    graph.set_codegen(Signature(_PyTreeInfo(names, spec.in_spec, spec.out_spec)))
    return Pruned(root, graph, type(model).__name__)


def recut(model: nn.Module, inputs: Inputs, wanted: surgery.Kept, settings: Settings) -> fx.GraphModule:
    """Cut the graph of a freshly built model so that the positions `wanted` stay; `settings` are those of the plan.

    Raises UserError if in this graph other channels go together than those that the plan cuts.
    """
    known = network_on(model, inputs, settings)
    roots, frozen = known.structure.roots, known.flow.channels.frozen()
    alive = np.ones(len(roots), bool)
    odd = {name for name in wanted if name not in known.flow.tensors}
    for name, dims in wanted.items() if not odd else ():
        for dim, positions in dims.items():
            ids = known.flow.tensors[name].dims[dim]
            gone = roots[np.delete(ids, positions)] if ids is not None else np.empty(0, np.int64)
            alive[gone] = False
            if frozen[gone].any():
                odd.add(name)
    alive = alive[roots]
    found = kept_of(known.flow, alive)
    odd |= {name for name in {*found, *wanted} if not _equal(found.get(name, {}), wanted.get(name, {}))}
    if odd:
        raise UserError(
            f"the plan does not fit {type(model).__name__}: channels of {min(odd)} go with others than in the plan; "
            "apply it to the model it was made from"
        )
    return cut(model, known, alive)


def kept_of(flow: Flow, alive: Alive) -> dict[str, dict[int, Ids]]:
    """Return the positions that stay, by tensor and dimension, where some go."""
    cuts = {name: kept(labels.dims, alive) for name, labels in flow.tensors.items()}
    return {name: dims for name, dims in cuts.items() if dims}


def _equal(one: Mapping[int, Ids], other: Mapping[int, Ids]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[d], other[d]) for d in one)


class _Cutter:
    """Builds the smaller graph node by node."""

    def __init__(self, known: Network, alive: Alive, root: nn.Module, norms: Mapping[fx.Node, str]) -> None:
        self._known, self._alive, self._root, self._norms = known, alive, root, norms
        self._graph = fx.Graph()
        self._made: dict[fx.Node, fx.Node] = {}
        self._selections = {arguments(s.node)["index"]: s for s in known.flow.selections}
        self._places = {name for name, _ in root.named_modules(remove_duplicate=False)}
        self._numbers = self._new_numbers()
        self._factors: dict[Fraction, fx.Node] = {}

    def graph(self) -> fx.Graph:
        """Return the graph, its tensors held by the root."""
        for node in self._known.captured.graph.nodes:
            if node.op == "output":
                self._output(node)
            else:
                self._made[node] = self._copied(node)
        return self._graph

    def _new_numbers(self) -> dict[fx.Node, dict[tuple[str, int | None], int | Fraction]]:
        """Return what changes in every op: numbers, or what is times the batch."""
        numbers: dict[fx.Node, dict[tuple[str, int | None], int | Fraction]] = {}
        for literal in self._known.flow.literals:
            new = int(np.count_nonzero(stays(literal.ids, self._alive)))
            if new < len(literal.ids):
                numbers.setdefault(literal.node, {})[literal.name, literal.index] = new
        batch = self._known.batch
        nodes = {n.name: n for n in self._known.captured.graph.nodes}
        for name, argument, index in batch.places if batch else ():
            held = numbers.setdefault(nodes[name], {})
            old = _written(nodes[name], argument, index)
            held[argument, index] = Fraction(held.get((argument, index), old), batch.size if batch else 1)
        return numbers

    def _copied(self, node: fx.Node) -> fx.Node:
        captured = self._known.captured
        if node.name in captured.tensors:
            return self._graph.get_attr(captured.tensors[node.name])
        if node.name in captured.constants:
            own = captured.program.graph_signature.inputs_to_buffers.get(node.name, "")
            return self._graph.get_attr(hold(self._root, own or node.name, self._constant(node), new=not own))
        if node.op == "get_attr":
            setattr(self._root, str(node.target), getattr(captured.program.graph_module, str(node.target)))
            return self._graph.get_attr(str(node.target))
        if node in self._norms:
            return self._graph.call_module(self._norms[node], (self._made[arguments(node)["input"]],))
        new = self._graph.node_copy(node, self._made.__getitem__)
        new.meta = {}  # what is known of the values holds for the uncut graph
        if node.op == "call_function":
            self._edit(node, new)
        return new

    def _edit(self, node: fx.Node, new: fx.Node) -> None:
        """Put in new numbers and the mode."""
        numbers = self._numbers.get(node, {})
        free = [key for key, value in numbers.items() if isinstance(value, Fraction)]
        for (name, index), value in numbers.items():
            if isinstance(value, int):
                if not (name in _SIZES and _written(node, name, index) == -1):
                    _set(new, name, index, value)
            elif op_name(node) in _VIEWS and len(free) == 1 and -1 not in arguments(node)[name]:
                _set(new, name, index, -1)
            else:
                _set(new, name, index, self._times_batch(new, value))
        for name in _MODES:
            if arguments(node).get(name) is False:
                with self._graph.inserting_before(new):
                    _set(new, name, None, self._mode(node))

    def _mode(self, node: fx.Node) -> fx.Node:
        """Read whether the module that an op is of is in training mode."""
        place = module_of(node)
        return self._graph.get_attr(f"{place}.training" if place in self._places - {""} else "training")

    def _times_batch(self, before: fx.Node, factor: Fraction) -> fx.Node:
        if factor not in self._factors:
            with self._graph.inserting_before(before):
                self._factors[factor] = self._batch(factor)
        return self._factors[factor]

    def _batch(self, factor: Fraction) -> fx.Node:
        """Work out a multiple of the batch that the model is given."""
        batch = self._known.batch
        source = next(made for node, made in self._made.items() if batch and node.name == batch.source)
        size = self._graph.call_function(torch.ops.aten.sym_size.int, (source, 0))
        if factor.numerator != 1:
            size = self._graph.call_function(operator.mul, (size, factor.numerator))
        if factor.denominator != 1:
            size = self._graph.call_function(operator.floordiv, (size, factor.denominator))
        return size

    def _constant(self, node: fx.Node) -> Tensor:
        """Return what stays of a constant; the places of an index are counted among those that stay."""
        tensor = self._known.captured.constants[node.name]
        if node in self._selections:
            return torch.from_numpy(self._index(self._selections[node])).to(tensor)
        labels = self._known.flow.values[node]
        for dim, positions in (kept(labels.dims, self._alive) if isinstance(labels, Labels) else {}).items():
            tensor = tensor.index_select(dim, torch.from_numpy(positions).to(tensor.device))
        return tensor.clone()

    def _index(self, selection: Selection) -> Ids:
        left = stays(selection.ids, self._alive)
        return (np.cumsum(left) - 1)[selection.places[left[selection.places]]]

    def _output(self, node: fx.Node) -> None:
        results: Any = node.args[0]
        self._graph.output(fx.node.map_arg(tuple(self._known.captured.shown(results)), self._made.__getitem__))


def _written(node: fx.Node, name: str, index: int | None) -> int:
    """Return a number as the graph has it."""
    value = arguments(node)[name]
    number: int = value if index is None else value[index]
    return number


def _set(node: fx.Node, name: str, index: int | None, value: Any) -> None:
    """Set an argument by its schema's name, or an entry of it."""
    target: Any = node.target
    position = [a.name for a in target._schema.arguments].index(name)
    if index is not None:
        entries = [*(node.args[position] if position < len(node.args) else node.kwargs[name])]  # type: ignore[misc]
        entries[index] = value
        value = entries
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)
