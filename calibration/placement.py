"""Where QuantizeLinear/DequantizeLinear pairs go in a float ONNX model, given a target's int8 scheme."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, TensorProto

from calibration.errors import CalibrationError, listed
from calibration.graph import Index, copy_with_constants_lifted, index, inferred, label
from calibration.qdq import write_pairs
from calibration.ranges import Ranges
from calibration.scheme import Scheme
from calibration.weights import Weights

__all__ = ["Placement", "Scheme", "place"]

# Kernels compute these on their accumulator, before it is rounded: a pair between would only lose accuracy.
FUSED = frozenset({"Relu", "Clip"})
# Per-channel QuantizeLinear came with it.
LEAST_OPSET = 13


@dataclass(frozen=True)
class Placement:
    """A model with its pairs, and what became of each op that the scheme names, by node name."""

    model: ModelProto
    quantized: tuple[str, ...]
    skipped: Mapping[str, str]  # node -> why it stays in float
    nearest: Mapping[str, str] = field(default_factory=dict)  # node -> why not with the weights that were given


def place(
    model: ModelProto,
    ranges: Ranges,
    scheme: Scheme,
    *,
    weights: Weights | None = None,
    exclude: Mapping[str, str] | Collection[str] = (),
) -> Placement:
    """Return a copy of the float `model` in int8: pairs on activations, weights stored as int8.

    A tensor gets one pair, which all of its readers share. Inputs and outputs of the model stay float.
    Weights are as `weights` have them where the scheme's grid is theirs, else rounded to nearest.
    Fold batch norms first (`affine.fold_affine`): a pair would part them from their convolution.

    Ops named in `exclude` (`graph.label`) stay in float; a mapping says by whom or what, for the report. Of a
    tensor that they share with an op in int8 they read what its pair gives, as other float ops do; but the
    tensor before the pair where they would stand between two pairs and `scheme.quantize_outputs`: onnxruntime
    makes an int8 convolution of that, and rounds the float weight for it, one scale for all channels.

    Raises CalibrationError if `ranges` or `weights` are of another model, lack a tensor, the model cannot take
    pairs, or has no op of a name in `exclude`.
    """
    _check(model, scheme)
    _check_names(model, exclude)
    ranges.require(model)
    if weights is not None:
        weights.require(model)
    copy = copy_with_constants_lifted(model)
    found = index(copy.graph)
    floats = _floats(copy, ranges)
    taken: list[NodeProto] = []
    skipped: dict[str, str] = {}
    for node in copy.graph.node:
        if not floats.intersection(node.input) or node.op_type not in (*scheme.weighted, *scheme.joined):
            continue
        reason = _refusal(node, found, floats, scheme) or _excluded(label(node), exclude)
        if reason:
            skipped[label(node)] = reason
        else:
            taken.append(node)
    with_weights = frozenset(node.output[0] for node in taken if _weight(node, found, scheme))
    tensors = _tensors(taken, found, floats, scheme)
    between = {
        node.output[0]: list(node.input)
        for node in copy.graph.node
        if scheme.quantize_outputs and label(node) in exclude and written(node, found) in tensors
    }
    nearest = write_pairs(copy.graph, ranges.of(tensors), with_weights, scheme, weights)
    _read_floats(copy, between)
    return Placement(copy, tuple(label(node) for node in taken), skipped, nearest)


def compress(
    model: ModelProto, scheme: Scheme, weights: Weights | None = None, exclude: Mapping[str, str] | Collection[str] = ()
) -> Placement:
    """Return a copy of the float `model` whose weights are int8 and dequantized as it runs: smaller, and no faster.

    Of the ops that the scheme has weights of, but those named in `exclude`. Activations and biases stay float.
    Raises CalibrationError as `place` does.
    """
    _check(model, scheme)
    _check_names(model, exclude)
    copy = copy_with_constants_lifted(model)
    found = index(copy.graph)
    taken: list[NodeProto] = []
    skipped: dict[str, str] = {}
    for node in copy.graph.node:
        if node.op_type in scheme.weighted:
            stored = None if _is_float(_weight(node, found, scheme)) else "its weight is computed, or not float32"
            reason = stored or _excluded(label(node), exclude)
            if reason:
                skipped[label(node)] = reason
            else:
                taken.append(node)
    nearest = write_pairs(copy.graph, {}, frozenset(node.output[0] for node in taken), scheme, weights)
    return Placement(copy, tuple(label(node) for node in taken), skipped, nearest)


def _check(model: ModelProto, scheme: Scheme) -> None:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise CalibrationError(
            f"the model has opset {opset}; int8 needs {LEAST_OPSET} or later:"
            " export it again, or use onnx.version_converter"
        )
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise CalibrationError("the model has QuantizeLinear nodes already: give the float model")
    if scheme.activation not in ("uint8", "int8"):
        raise CalibrationError(f"the scheme's activation is {scheme.activation!r}: use 'uint8' or 'int8'")


def _check_names(model: ModelProto, exclude: Collection[str]) -> None:
    unknown = set(exclude) - {label(node) for node in model.graph.node}
    if unknown:
        raise CalibrationError(f"no op of the model is named {listed(sorted(unknown))}: it cannot be left in float")


def _excluded(name: str, exclude: Mapping[str, str] | Collection[str]) -> str | None:
    if name not in exclude:
        return None
    return f"left in float by {exclude[name] if isinstance(exclude, Mapping) else 'request'}"


def _read_floats(model: ModelProto, inputs: Mapping[str, list[str]]) -> None:
    """Give the nodes with these first outputs their inputs back."""
    for node in model.graph.node:
        if node.output[0] in inputs:
            node.input[:] = inputs[node.output[0]]


def _floats(model: ModelProto, ranges: Ranges) -> set[str]:
    """Activations of type float32; where the type cannot be inferred, those that were observed."""
    graph = inferred(model)
    constants = {tensor.name for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    known = {name for name, elem_type in types.items() if elem_type == TensorProto.FLOAT}
    untyped = {name for name in ranges.tensors if not types.get(name)}
    return (known | untyped) - constants


def _weight(node: NodeProto, found: Index, scheme: Scheme) -> TensorProto | None:
    """The constant second input of an op that has weights."""
    return found.constants.get(node.input[1]) if node.op_type in scheme.weighted else None


def _tensors(taken: list[NodeProto], found: Index, floats: set[str], scheme: Scheme) -> list[str]:
    """The tensors that get a pair."""
    tensors: dict[str, None] = {}
    for node in taken:
        inputs = node.input[:1] if _weight(node, found, scheme) else node.input
        tensors |= dict.fromkeys(name for name in inputs if name in floats)
    if scheme.quantize_outputs:
        tensors |= dict.fromkeys(name for node in taken if (name := written(node, found)) not in found.outputs)
    else:
        for name in _accumulated(taken, found, scheme):
            tensors.pop(name)
    return list(tensors)


def _accumulated(taken: list[NodeProto], found: Index, scheme: Scheme) -> list[str]:
    """Inputs of residual adds that stay on the accumulator of the kernel that makes them: one for each add.

    The kernel of a convolution adds the other input before it rounds, if nothing stands between; a pair there
    would cost accuracy, and a kernel of its own for the add.
    """
    adds = {node.output[0] for node in taken if node.op_type == "Add"}
    last: dict[str, str] = {}  # add -> its input that is computed last
    for node in taken:
        reader = found.only_reader(node.output[0])
        if reader is not None and reader.output[0] in adds and _weight(node, found, scheme):
            last[reader.output[0]] = node.output[0]
    return list(last.values())


def written(node: NodeProto, found: Index) -> str:
    """Return the tensor that the kernel of `node` writes, fused activations included."""
    name = str(node.output[0])
    while (reader := found.only_reader(name)) is not None and reader.op_type in FUSED:
        name = str(reader.output[0])
    return name


def _refusal(node: NodeProto, found: Index, floats: set[str], scheme: Scheme) -> str | None:
    """Why `node`, which the scheme names and which reads a float activation, stays in float."""
    weight = _weight(node, found, scheme)
    if node.op_type in scheme.joined or (node.op_type == "MatMul" and weight is None):
        constant = [name for name in node.input if _is_float(found.constants.get(name))]
        return f"its input {constant[0]!r} is a constant" if constant else None
    if weight is None:
        return "its weight is computed, not stored"
    if node.input[0] not in floats:
        return "its data input is a constant"
    if not _is_float(weight):
        return f"its weight is {TensorProto.DataType.Name(weight.data_type).lower()}, not float32"
    return _too_small(weight, scheme.min_gemm) if node.op_type in ("Gemm", "MatMul") else None


def _too_small(weight: TensorProto, least: int) -> str | None:
    if len(weight.dims) < 2:
        return "its weight is a vector"
    small, large = sorted(weight.dims[-2:])
    return f"its weight is {small} × {large}, under the least size {least}" if small < least else None


def _is_float(tensor: TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.FLOAT
