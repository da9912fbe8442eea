"""Everything that is known of a network before it is cut."""

from dataclasses import dataclass

from torch import nn

from pipeline.pruning.batch import Batch, find_batch
from pipeline.pruning.groups import Structure, ignore, structure
from pipeline.pruning.normalise import normalise
from pipeline.pruning.rules.base import Flow
from pipeline.pruning.settings import Settings
from pipeline.pruning.trace import Captured, Inputs, capture, walk


@dataclass(frozen=True)
class Analysis:
    """A captured network, the ids on its graph, and its groups. `batch` is for graphs that are cut themselves."""

    captured: Captured
    flow: Flow
    structure: Structure
    batch: Batch | None = None


def analyse(model: nn.Module, inputs: Inputs, settings: Settings) -> Analysis:
    """Capture a model and find its groups. Raises UserError as `capture` and `ignore` do."""
    editable = settings.form == "graph"

    def captured_of(inputs: Inputs) -> Captured:
        captured = capture(model, inputs)
        return normalise(captured) if editable else captured

    captured = captured_of(inputs)
    flow = walk(captured, editable=editable)
    ignore(flow, settings.ignore)
    found = structure(flow, heads="head" in settings.granularity)
    return Analysis(captured, flow, found, find_batch(captured, captured_of, inputs) if editable else None)
