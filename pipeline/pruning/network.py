"""Everything that is known of a network before it is cut."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.pruning.batch import Batch, batch_of, find_batch
from pipeline.pruning.groups import Structure, ignore, structure
from pipeline.pruning.normalise import normalise
from pipeline.pruning.rules.base import Flow
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import Captured, Inputs, as_inputs, capture, walk


@dataclass(frozen=True)
class Network:
    """A captured network, the ids on its graph, and its groups.

    For graphs that are cut themselves `batch` tells the numbers that follow the batch; where it is unknown
    which do, `fixed_batch` is the only batch that the graph will run on.
    """

    captured: Captured
    flow: Flow
    structure: Structure
    batch: Batch | None = None
    fixed_batch: int | None = None


def network_on(model: nn.Module, example_inputs: Any, settings: Settings) -> Network:
    """Capture a model on inputs and find its groups. Raises UserError as `capture` and `ignore` do."""
    inputs = as_inputs(example_inputs)
    return network_of(model, capture(model, inputs), inputs, settings)


def network_of(model: nn.Module, captured: Captured, inputs: Inputs, settings: Settings) -> Network:
    """Find the groups of a model, captured on `inputs`. Raises UserError as `ignore` does.

    With form "graph" the captured graph is rewritten in place.
    """
    editable = settings.form == "graph"

    def prepared(captured: Captured) -> Captured:
        return normalise(captured) if editable else captured

    captured = prepared(captured)
    flow = walk(captured, editable=editable)
    if captured.unused:
        walk(prepared(capture(model, inputs, training=True)), flow=flow)
    ignore(flow, settings.ignore)
    found = structure(flow, heads="head" in settings.granularity)
    size = batch_of(captured) if editable else None
    batch = None if size is None else find_batch(captured, lambda longer: prepared(capture(model, longer)), inputs)
    return Network(captured, flow, found, batch, size if batch is None else None)
