"""From a model to channel ids: capture the graph that `torch.export` sees and walk it with the rules."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from pipeline.errors import UserError
from pipeline.pruning.rules.base import Call, Flow, Labels, Shape, Value, rules, unknown

Inputs = tuple[Any, ...]

# what a forward raises when shapes do not fit; torch.export's own errors derive from RuntimeError
FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Captured:
    """A model's graph in evaluation mode, with static shapes.

    `tensors` maps the graph's placeholders to parameters and buffers, by their name in the model; tied
    tensors share the first of their names. `constants` are tensors that the model holds in neither way.
    """

    program: ExportedProgram
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    parameters: frozenset[str]
    shapes: Mapping[str, Shape]
    itemsizes: Mapping[str, int]  # bytes per element

    @property
    def unused(self) -> tuple[str, ...]:
        """Parameters that no op reads: only training reaches them, as it does auxiliary heads."""
        idle = (self.tensors[n.name] for n in self.graph.nodes if n.name in self.tensors and not n.users)
        return tuple(name for name in idle if name in self.parameters)

    @property
    def graph(self) -> fx.Graph:
        """The captured graph."""
        graph: fx.Graph = self.program.graph_module.graph
        return graph

    def shown(self, results: Sequence[Any]) -> list[Any]:
        """Return those of the graph's results that the model returns; others are buffers that it has changed."""
        specs = self.program.graph_signature.output_specs
        return [r for r, spec in zip(results, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]


def as_inputs(inputs: Any) -> Inputs:
    """Return positional inputs as a tuple, whether one tensor was given or several."""
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def copied(inputs: Any) -> Any:
    """Return inputs, nested or not, as copies, for a forward that may write to them; gradients go through."""
    return pytree.tree_map_only(Tensor, Tensor.clone, inputs)


def capture(model: nn.Module, example_inputs: Any, *, training: bool = False) -> Captured:
    """Export `model` in evaluation mode, or in training mode. The model given is not changed.

    Raises UserError where the model does not run on the inputs or cannot be captured.
    """
    try:
        with in_mode(model, training=training), torch.no_grad():
            program = torch.export.export(model, as_inputs(example_inputs))
    except FORWARD_ERRORS as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot capture {type(model).__name__}: {line}; it must run on the example inputs and pass torch.export"
        ) from error
    signature = program.graph_signature
    first = _first_names(model)
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = {node: first.get(name, name) for node, name in held.items()}
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = set(tensors.values())
    return Captured(
        program=program,
        tensors=tensors,
        constants={node: program.constants[n] for node, n in signature.inputs_to_lifted_tensor_constants.items()},
        parameters=frozenset(first.get(n, n) for n in signature.parameters),
        shapes={name: tuple(state[name].shape) for name in names},
        itemsizes={name: state[name].itemsize for name in names},
    )


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _first_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def walk(captured: Captured, *, editable: bool = False, flow: Flow | None = None) -> Flow:
    """Run the rule of every op over the graph; what reaches the model's outputs is frozen.

    `editable` says that the graph itself will be cut, so that sizes in it can be chosen freely. With `flow`, what
    another graph of the same model says is added to it.
    """
    flow = flow or Flow(editable)
    values = flow.values
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(flow, captured, node)
        elif node.op == "call_function":
            values[node] = _call(flow, node, values)
        elif node.op == "output":
            for source in node.all_input_nodes:
                _keep(flow, values[source])
    return flow


def _placeholder(flow: Flow, captured: Captured, node: fx.Node) -> Value:
    if node.name in captured.tensors:
        name = captured.tensors[node.name]
        return flow.tensor(name, captured.shapes[name])
    shapes = shapes_of(node)
    if node.name in captured.constants:
        return _constant(flow, node, captured.constants[node.name])
    return Labels.blank(shapes[0]) if shapes else None


def _constant(flow: Flow, node: fx.Node, tensor: Tensor) -> Value:
    """Label a tensor that is no parameter: it can only be cut where the graph is."""
    shape = tuple(tensor.shape)
    if not flow.editable:
        return unknown(flow, Call("constant", {}, (shape,)))
    if tensor.ndim == 1 and tensor.dtype == torch.int64 and len(node.users) == 1:
        return Labels(shape, (None,), places=tensor.cpu().numpy())
    return Labels(shape, flow.fresh(shape))


def _call(flow: Flow, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
    if node.target is operator.getitem:
        source, index = node.args
        several = values[source] if isinstance(source, fx.Node) else None
        return several[index] if isinstance(several, tuple) and isinstance(index, int) else several
    call = Call(op_name(node), _labelled(arguments(node), values), shapes_of(node), node)
    return rules().get(call.op, unknown)(flow, call)


def _keep(flow: Flow, value: Value) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, Labels):
            flow.keep(*item.dims)


def _labelled(value: Any, values: Mapping[fx.Node, Value]) -> Any:
    """Replace graph nodes by what is known of their values."""
    if isinstance(value, fx.Node):
        return values.get(value)
    if isinstance(value, list | tuple):
        return [_labelled(v, values) for v in value]
    if isinstance(value, dict):
        return {k: _labelled(v, values) for k, v in value.items()}
    return value


def op_name(node: fx.Node) -> str:
    """Return an op's name without overload and without the underscore of its in-place form."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", str(node.target))
    name = node.target._schema.name.rpartition("::")[2]
    return name if name.startswith("_") and name.endswith("__") else name.rstrip("_")


def stack_of(node: fx.Node) -> list[str]:
    """Return the modules whose forwards an op was called in, outermost first; "name@1" for a second call."""
    return [str(name) for name, _ in (node.meta.get("nn_module_stack") or {}).values()]


def module_of(node: fx.Node) -> str:
    """Return the name of the innermost module whose forward called the op, empty for the model's own."""
    names = stack_of(node)
    return names[-1].partition("@")[0] if names else ""


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return a call's arguments by the names of its schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {**{str(i): a for i, a in enumerate(node.args)}, **node.kwargs}
    schema = node.target._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def split_by_schema(node: fx.Node, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Split arguments by name into those that an op takes by position and those that it takes by keyword only."""
    target: Any = node.target
    keyword = {a.name for a in target._schema.arguments if a.kwarg_only}
    return [a for n, a in given.items() if n not in keyword], {n: a for n, a in given.items() if n in keyword}


def shapes_of(node: fx.Node) -> tuple[Shape, ...]:
    """Return the shapes of the tensors that a node gives."""
    value = node.meta.get("val")
    several = value if isinstance(value, tuple | list) else (value,)
    return tuple(tuple(int(n) for n in v.shape) for v in several if isinstance(v, Tensor))
