"""What the graph of a model says of it before it is pruned: its kind, and the layers that make its outputs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

LAYERS = ("conv", "linear")  # ops whose weight makes new channels
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MATMULS = ("matmul", "bmm", "mm", "baddbmm", "einsum")


def export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Capture `model`. Raises what torch.export raises."""
    with torch.no_grad():
        return torch.export.export(model, inputs)


def kind(program: ExportedProgram) -> str:
    """Return "attention" for a graph with softmax, attention or a product of two activations, else "conv"."""
    active = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        sources = [n for n in node.all_input_nodes if n.name in active]
        if sources:
            active.add(node.name)
        op = _op(node)
        if "softmax" in op or "attention" in op or (op in MATMULS and len(sources) > 1):
            return "attention"
    return "conv"


def heads(program: ExportedProgram) -> list[str]:
    """Return the names of the modules whose weights make the outputs' channels."""
    parameters = program.graph_signature.inputs_to_parameters
    found: dict[str, None] = {}
    (output,) = (n for n in program.graph.nodes if n.op == "output")
    waiting, seen = [output], {output}
    while waiting:
        node = waiting.pop()
        weights = [parameters[n.name] for n in node.all_input_nodes if n.name in parameters]
        if _op(node).startswith(LAYERS) and weights:
            found[weights[0].rpartition(".")[0]] = None
            continue
        waiting += [n for n in node.all_input_nodes if n not in seen]
        seen.update(node.all_input_nodes)
    return list(found)


def likely_heads(model: nn.Module, outputs: list[Tensor]) -> list[str]:
    """Return the layers as wide as an output: what to keep of a model that cannot be captured."""
    widths = {size for t in outputs for size in (t.shape[1:2] + t.shape[-1:])}
    return [name for name, width in layer_widths(model).items() if width in widths]


def layer_widths(model: nn.Module) -> dict[str, int]:
    """Return how many channels each convolution and linear layer makes, read off its weight."""
    return dict(_widths(model))


def _widths(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, TRANSPOSED):
            yield name, weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            yield name, weight.shape[0]


def _op(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.rpartition("::")[2].rstrip("_")
    return ""
