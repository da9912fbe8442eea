"""No criterion at all: the baseline that every other one has to beat (Mittal et al., WACV 2018)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.pruning.criteria.base import Criterion, Ranking
from pipeline.pruning.evidence import Evidence
from pipeline.pruning.groups import Group


@dataclass(frozen=True)
class Random(Criterion):
    """Chance: uniform scores, a baseline for the others.

    A coupled group has one score per unit. Scores depend on the seed and the group's name and nothing else.
    """

    seed: Annotated[int, Field(ge=0, description="of the scores")] = 0

    def rank(self, groups: Sequence[Group], evidence: Evidence) -> Mapping[str, Ranking]:
        """Return uniform scores in [0, 1), by group."""
        return {g.name: Ranking(_generator(self.seed, g.name).random(g.units), comparable=True) for g in groups}


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
