"""A float ONNX model as a torch module that computes what its int8 form will: for training with quantization.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from calibration.graph import Index, attributes, copy_with_constants_lifted, index, label
from calibration.placement import Scheme, place
from calibration.qdq import origins
from calibration.qparams import BIAS_LIMIT, weight_limit
from calibration.ranges import Ranges, TensorRange
from pipeline.errors import UserError
from pipeline.pruning.sparsity import hold
from pipeline.training.fake_quant import FakeQuant, quantized_weight, rounded, weight_steps
from pipeline.training.onnx_ops import OPS, supported

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class _Paired:
    """What stands before the inputs of a node in the placed graph, by slot."""

    activations: Mapping[int, str]  # the tensor whose range its pair has
    weight: tuple[int | None] | None  # the axis of its scales, where it is int8
    bias: bool  # whether it is int32


class QuantizedGraph(nn.Module):
    """What `place(model, ranges, scheme)` computes, in float and with gradients; trains a float `model` of any batch.

    Weights take new scales at every step, as they will when pairs are placed; ranges are those of `ranges`, trained
    where `learned` is set. Raises UserError for an operator that cannot be trained.
    """

    def __init__(self, model: ModelProto, ranges: Ranges, scheme: Scheme, *, learned: bool = True) -> None:
        super().__init__()
        self._model, self._ranges, self._scheme = copy_with_constants_lifted(model), ranges, scheme
        self._learned = learned
        graph = self._model.graph
        self._nodes = [_checked(node) for node in graph.node]
        self._given = [attributes(node) for node in self._nodes]
        self._input = next(v.name for v in graph.input if v.name not in {t.name for t in graph.initializer})
        self._outputs = [value.name for value in graph.output]
        self._keys: dict[str, str] = {}  # trained or fixed float constant -> its name here
        self._whole: dict[str, Tensor] = {}  # constants that are shapes and the like
        self._hold(set(_trained(self._nodes)))
        placed = place(model, ranges, scheme).model
        self._paired = list(_pairs(self._nodes, index(placed.graph), set(self._keys)))
        paired = {name for one in self._paired for name in one.activations.values()}
        self._origin = origins(graph, paired)
        self._quants = {name: f"range_{i}" for i, name in enumerate(dict.fromkeys(self._origin.values()))}
        for name, key in self._quants.items():
            seen = ranges.tensors[name]
            ends = seen.bounds(scheme.symmetric)
            self.add_module(key, FakeQuant(*ends, scheme, learned))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the model's output, or its outputs, of inputs `(N, ...)`."""
        values: dict[str, Tensor] = {self._input: x}
        real: dict[str, Tensor] = {}  # what readers of a paired tensor read
        for node, given, paired in zip(self._nodes, self._given, self._paired, strict=True):
            inputs = [self._value(name, values) for name in node.input]
            for slot, name in paired.activations.items():
                if name not in real:
                    real[name] = self._quant(name)(values[name])
                inputs[slot] = real[name]
            self._integers(node, paired, inputs)
            made = OPS[node.op_type](given, *inputs)
            outputs = made if isinstance(made, tuple) else (made,)
            values.update(zip(node.output, outputs, strict=False))
        found = tuple(values[name] for name in self._outputs)
        return found[0] if len(found) == 1 else found

    def hold_zeros(self, names: Collection[str]) -> None:
        """Keep the weights of these names, where they are zero now, at zero."""
        held = {self._keys[name] for name in names if name in self._keys}
        hold(self, {key: getattr(self, key).detach() != 0 for key in held})

    @torch.no_grad()
    def trained(self) -> tuple[ModelProto, Ranges]:
        """Return the float model with the weights as they are now, and its ranges."""
        model = ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in self._keys:
                value = getattr(self, self._keys[tensor.name]).detach().cpu().contiguous().numpy()
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        tensors = dict(self._ranges.tensors)
        for name in self._quants if self._learned else ():
            quant = self._quant(name)
            low, high = sorted((float(quant.low), float(quant.high)))
            seen = tensors[name]
            tensors[name] = TensorRange(min(seen.minimum, low), max(seen.maximum, high), low, high)
        return model, replace(self._ranges, tensors=tensors).adopted_by(model)

    def _hold(self, trained: set[str]) -> None:
        """Keep constants: float ones as parameters or buffers, the others aside."""
        for i, tensor in enumerate(self._model.graph.initializer):
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if value.dtype != torch.float32:
                self._whole[tensor.name] = value
                continue
            self._keys[tensor.name] = key = f"constant_{i}"
            if tensor.name in trained:
                self.register_parameter(key, nn.Parameter(value))
            else:
                self.register_buffer(key, value)

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        if name in self._keys:
            held: Tensor = getattr(self, self._keys[name])
            return held
        return values[name] if name in values else self._whole[name]

    def _quant(self, name: str) -> FakeQuant:
        module: FakeQuant = getattr(self, self._quants[self._origin[name]])
        return module

    def _integers(self, node: NodeProto, paired: _Paired, inputs: list[Tensor | None]) -> None:
        """Round the weight and the bias among the inputs, in place."""
        weight = inputs[1] if paired.weight is not None else None
        if weight is None or paired.weight is None:
            return
        (axis,) = paired.weight
        limit = weight_limit(self._scheme)
        scale = weight_steps(weight, axis, limit)
        bias = inputs[2] if paired.bias else None
        if bias is not None:
            data, _ = self._quant(node.input[0]).steps()
            least = bias.detach().abs() / (data.detach() * BIAS_LIMIT)
            scale = torch.maximum(scale, least if scale.ndim else least.max())
            steps = scale * data.detach()
            inputs[2] = rounded(bias.double() / steps).float() * steps
        inputs[1] = quantized_weight(weight, scale, axis, limit)


def _checked(node: NodeProto) -> NodeProto:
    if node.op_type not in OPS or node.domain not in ("", "ai.onnx"):
        raise UserError(
            f"{label(node)}: the operator {node.op_type} cannot be trained with quantization; "
            f"these can: {', '.join(supported())}"
        )
    return node


def _trained(nodes: list[NodeProto]) -> Iterator[str]:
    """Yield the weights and biases of layers; what else is constant, the bounds of a Clip say, stays as it is."""
    for node in nodes:
        if node.op_type in _LAYERS:
            yield from node.input


def _pairs(nodes: list[NodeProto], placed: Index, constants: set[str]) -> Iterator[_Paired]:
    """Yield what the placed graph has before the inputs of each node."""
    for node in nodes:
        there = placed.producer[node.output[0]]
        activations: dict[int, str] = {}
        weight: tuple[int | None] | None = None
        bias = False
        for slot, (name, now) in enumerate(zip(node.input, there.input, strict=True)):
            if now == name:
                continue
            if name not in constants:
                activations[slot] = name
            elif slot == 1:
                scales = placed.constants[placed.producer[now].input[1]]
                weight = (attributes(placed.producer[now]).get("axis", 1) if len(scales.dims) else None,)
            else:
                bias = True
        yield _Paired(activations, weight, bias)
