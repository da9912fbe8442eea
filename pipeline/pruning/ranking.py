"""The ranking of a network's units by the criterion that the settings name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from pipeline.errors import UserError
from pipeline.options import Where, model_of, validate, values
from pipeline.plugins import find
from pipeline.pruning.criteria.base import Criterion, Ranking
from pipeline.pruning.evidence import Evidence

CRITERIA = "pipeline.pruning.criteria"


def criterion_of(name: str, options: Mapping[str, Any]) -> Criterion:
    """Return the criterion of a name with its options set. Raises UserError for a wrong name or option."""
    kind = find(CRITERIA, name, Criterion)
    return kind(**values(validate(model_of(kind), options, Where(f"criterion {name}"))))


def rankings(evidence: Evidence) -> tuple[Mapping[str, Ranking], nn.Module]:
    """Rank the groups that may go; return also the model that was ranked.

    That is a trained copy where the criterion learns, else the one given. Raises UserError for weights or
    samples whose scores are no numbers.
    """
    settings = evidence.settings
    criterion = criterion_of(settings.criterion, settings.criterion_options)
    if not evidence.groups:
        return {}, evidence.model
    evidence = criterion.learn(evidence)
    found = criterion.rank(evidence.groups, evidence)
    _check(found, evidence)
    return found, evidence.model


def _check(found: Mapping[str, Ranking], evidence: Evidence) -> None:
    """Refuse scores that are no numbers, and say where they come from."""
    for group in evidence.network.structure.groups:
        if group.name in found and not np.isfinite(found[group.name].scores).all():
            if odd := [m.tensor for m in group.members if not evidence.tensors[m.tensor].isfinite().all()]:
                line = f"weights are not finite: {', '.join(odd)}; the checkpoint holds NaN or Inf, train it again"
                raise UserError(line)
            name = evidence.settings.criterion
            raise UserError(f"criterion {name}: the scores of {group.name} are not finite; look for NaN in the samples")
