"""This project, the proof included."""

import math
from typing import Any

from torch import Tensor, nn

from pipeline.pruning import prune


def cut(model: nn.Module, inputs: tuple[Tensor, ...], request: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the pruned model and what the engine says of it. Raises UserError as `prune` does."""
    result = prune(model, inputs, ratio=request["ratio"], round_to=1, **request["settings"])
    widths = {name: p.shape[0] for name, p in model.named_parameters(remove_duplicate=False) if p.ndim > 1}
    frozen = {name for names in result.frozen.values() for name in names}
    error = result.proof.max_rel_error
    return result.model, {
        "removed": result.achieved,
        "frozen": {op: len(names) for op, names in result.frozen.items()},
        "frozen_share": sum(widths.get(name, 0) for name in frozen) / max(sum(widths.values()), 1),
        "macs_predicted": result.macs_after,
        "params_predicted": result.params_after,
        "proof_error": error if math.isfinite(error) else None,
        "proved": result.proof.holds,
    }
