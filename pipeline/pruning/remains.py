"""Why dead channels stay, in lines for people."""

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
from torch import Tensor, fx

from pipeline.pruning.analysis import Analysis
from pipeline.pruning.channels import Ids
from pipeline.pruning.groups import roles
from pipeline.pruning.liveness import Removal
from pipeline.pruning.readers import Mask, Reader
from pipeline.pruning.rules.base import Labels, Role


def remains(found: Analysis, removal: Removal, unproven: Collection[str]) -> tuple[str, ...]:
    """Return a line per layer and reason, for the channels that are constant somewhere and stay all the same."""
    dead = constant_somewhere(found)[:-1] & ~removal.removed[:-1]
    why = _reasons(found, removal, unproven)
    lines = Counter[tuple[str, str]]()
    for layer, classes, channels in _layers(found):
        for c in classes[dead[classes]].tolist():
            lines[layer, why.get(c, "inputs, outputs or shapes of the model fix them")] += channels
    return tuple(f"{layer}: {_number(count)}: {reason}" for (layer, reason), count in lines.items())


def _number(count: int) -> str:
    return "1 dead channel stays" if count == 1 else f"{count} dead channels stay"


def constant_somewhere(found: Analysis) -> Mask:
    """Return the classes whose value is the same for every input at some op, as a mask with an entry for -1."""
    roots = found.flow.channels.roots()
    mask = np.zeros(len(roots) + 1, bool)
    for node in _activations(found):
        labels, value = found.flow.values.get(node), found.values[node]
        if not (isinstance(labels, Labels) and isinstance(value, Tensor)):
            continue
        for d, ids in enumerate(labels.dims):
            if ids is not None:
                known = ~value.movedim(d, 0).flatten(1).isnan().any(1) if value.ndim > 1 else ~value.isnan()
                at = ids[np.broadcast_to(known.numpy(), ids.shape)]
                mask[roots[at[at >= 0]]] = True
    return mask


def _activations(found: Analysis) -> Iterator[fx.Node]:
    """Yield the ops that depend on the model's inputs: what is computed from weights alone is always constant."""
    depends: set[fx.Node] = set()
    for node in found.captured.graph.nodes:
        given = node.op == "placeholder" and node.name not in found.captured.tensors
        if given or not depends.isdisjoint(node.all_input_nodes):
            depends.add(node)
            if node.op == "call_function":
                yield node


def _layers(found: Analysis) -> Iterator[tuple[str, Ids, int]]:
    """Yield every class once, with the layer that makes it and its channels per unit: groups, then the rest."""
    roots = found.flow.channels.roots()
    seen, role = np.zeros(len(roots), bool), roles(found.flow)
    for group in found.structure.groups:
        seen[group.classes] = True
        yield group.name, group.classes, group.channels_per_unit
    for name, labels in found.flow.tensors.items():
        for d, ids in enumerate(labels.dims):
            if ids is not None and role(name, d) is Role.OUT:
                classes = np.unique(roots[ids])
                yield name.rpartition(".")[0] or name, classes[~seen[classes]], 1
                seen[classes] = True


def _reasons(found: Analysis, removal: Removal, unproven: Collection[str]) -> dict[int, str]:
    """Return why classes stay; where there are several reasons, the last one set is the most telling."""
    why: dict[int, str] = {}
    met = _borders_met(found)
    for reader in found.readers:
        why |= _read(reader, removal, met)
    why |= dict.fromkeys(removal.last, "no layer is left empty")
    for c in removal.carriers:
        why[c] = "carries the constants of its group to layers that pad with zeros"
    for reader_name, classes in found.strangers.items():
        why |= dict.fromkeys(classes.tolist(), f"{reader_name} reads them")
    for reason, classes in found.flow.channels.reasons().items():
        why |= dict.fromkeys(classes.tolist(), f"{reason} has no rule")
    for name in unproven:
        why |= dict.fromkeys(found.units[name].tolist(), "the outputs were not the same without them")
    return why


def _borders_met(found: Analysis) -> dict[int, str]:
    """Return, for classes that pass a padded depthwise layer as constants other than zero, the layer."""
    met: dict[int, str] = {}
    for reader in found.readers:
        bent = (reader.product.known & ~reader.product.adds_constant).flatten().numpy()
        passing = reader.inputs[bent & np.isin(reader.inputs, reader.outputs)]
        met |= dict.fromkeys(passing.tolist(), reader.layer)
    return met


def _read(reader: Reader, removal: Removal, met: dict[int, str]) -> dict[int, str]:
    """Return why the classes that a layer reads cannot go, if it is for their constants."""
    stuck = ~(reader.foldable | reader.mergeable) & reader.read(~removal.removed[reader.outputs])
    why = {}
    for p in np.flatnonzero(stuck).tolist():
        c = int(reader.inputs[p])
        if not reader.product.known.flatten()[p]:
            padded = f"their constant meets the zero padding of {met.get(c)}"
            why[c] = padded if c in met else f"coupled with live channels before {reader.layer} reads them"
        elif reader.product.adds_constant.flatten()[p]:
            why[c] = f"{reader.layer} has no bias of its own that could take their constant"
        else:
            why[c] = f"their constant meets the zero padding of {reader.layer}, whose weight is shared or computed"
    return why
