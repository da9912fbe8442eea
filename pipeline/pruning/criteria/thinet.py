"""ThiNet (Luo, Wu & Lin, ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.pruning.contributions import ContributionCriterion, Gram
from pipeline.pruning.criteria.base import Ranking


@dataclass(frozen=True)
class Thinet(ContributionCriterion):
    """Greedily removes the channels whose sum matters least to what the next layer gives, then rescales the others.

    Of a coupled group: the squared error of every reader relative to the energy of its outputs, summed over the
    readers. Scores are the order of removal, so sets are nested; they say nothing of one group against another,
    and scope "global" takes about the same share of every group. The rescaling is that of section 3.2.2, eq. 7:
    a factor for every channel that stays, in every layer that reads it, by least squares over all outputs.
    """

    reconstructs: ClassVar[Literal["scale", "full"] | None] = "scale"

    outputs: Annotated[
        int, Field(ge=0, description="random outputs of the next layer at every place, 1 in the paper; 0: all")
    ] = 0

    @property
    def sampled_outputs(self) -> int:
        """Outputs to sample at every place; 0 for all."""
        return self.outputs

    def judge(self, gram: Gram) -> Ranking:
        """Rank by the order of removal."""
        return Ranking(removal(gram))


def removal(gram: Gram) -> NDArray[np.float64]:
    """Return when each unit goes, (units,): the next is always that with the least 1ᵀ G_TT 1 of all gone, T."""
    order = np.empty(len(gram))
    own, with_gone = gram.diagonal().copy(), np.zeros(len(gram))
    for step in range(len(gram)):
        unit = int(np.argmin(own + 2 * with_gone))
        order[unit], own[unit] = step, np.inf
        with_gone += gram[unit]
    return order
