"""All that is known of a model before its dead channels go: graph, groups, constants, and who reads them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx, nn

from pipeline.pruning.channels import Ids
from pipeline.pruning.constants import Value, constants
from pipeline.pruning.groups import Structure
from pipeline.pruning.liveness import Removal
from pipeline.pruning.network import network_of
from pipeline.pruning.readers import Mask, Reader, readers, strangers
from pipeline.pruning.rules.base import Flow
from pipeline.pruning.settings import Settings
from pipeline.pruning.surgery import tensors
from pipeline.pruning.trace import Captured, Inputs, capture


@dataclass(frozen=True)
class Analysis:
    """`strangers` has what holds classes back: ops without a rule here or that mix channels, and training.

    `candidates` is indexed by class, with a last entry for -1, no class.
    """

    captured: Captured
    flow: Flow
    structure: Structure
    values: Mapping[fx.Node, Value]
    readers: tuple[Reader, ...]
    strangers: Mapping[str, Ids]
    candidates: Mask

    @property
    def units(self) -> Mapping[str, Ids]:
        """The class of every unit, by group."""
        return {group.name: group.classes for group in self.structure.groups}

    def kept(self, removal: Removal) -> dict[str, tuple[int, ...]]:
        """Return the units that stay, by group."""
        return {name: tuple(np.flatnonzero(~removal.removed[c]).tolist()) for name, c in self.units.items()}


def analyse(model: nn.Module, inputs: Inputs, whole: Collection[str] = ()) -> Analysis:
    """Capture a model and work out what is constant in it; units of the groups `whole` are no candidates."""
    captured = capture(model, inputs)
    known = network_of(model, captured, inputs, Settings())
    flow, found = known.flow, known.structure
    values = constants(captured, tensors(model))
    foreign = strangers(captured, flow)
    candidates = np.zeros(len(found.roots) + 1, bool)
    for group in found.groups:
        candidates[group.classes] = group.name not in whole
    for classes in foreign.values():
        candidates[classes] = False
    return Analysis(
        captured=captured,
        flow=flow,
        structure=found,
        values=values,
        readers=readers(model, captured, flow, values),
        strangers=foreign,
        candidates=candidates,
    )
