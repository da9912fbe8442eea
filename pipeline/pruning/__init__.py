"""Structured pruning: channels that go together are found on the graph, cut, and the cut is proved.

result = prune(model, example_inputs, ratio=0.5, criterion="l1", round_to=8, ignore=("head",))
result.plan.save("plan.json")
same = Plan.load("plan.json").apply(fresh_model)

form="graph" cuts the captured graph instead of the modules, which also changes sizes written into the forward.
"""

from pipeline.pruning.counters import Counts, count
from pipeline.pruning.dead import DeadResult, remove_dead
from pipeline.pruning.engine import PruneResult, Scored, groups_of, prune, score
from pipeline.pruning.plan import Plan, replay
from pipeline.pruning.samples import Samples
from pipeline.pruning.settings import Settings
from pipeline.pruning.sparsity import SparseResult, sparsify
from pipeline.pruning.verify import Proof

__all__ = [
    "Counts",
    "DeadResult",
    "Plan",
    "Proof",
    "PruneResult",
    "Samples",
    "Scored",
    "Settings",
    "SparseResult",
    "count",
    "groups_of",
    "prune",
    "remove_dead",
    "replay",
    "score",
    "sparsify",
]
