"""The random baseline: uniform, reproducible, and drawn for every group by itself."""

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.pruning import prune
from pipeline.pruning.criteria.random import Random
from pipeline.pruning.ranking import criterion_of
from tests.criteria_evidence import evidence
from tests.pruning_nets import built


def test_scores_depend_on_seed_and_name_alone() -> None:
    found = evidence("vgg")
    groups = found.network.structure.groups
    some, again = (Random(seed=3).rank(g, found) for g in (groups, groups[::-1][:2]))
    assert all(np.array_equal(some[name].scores, r.scores) for name, r in again.items())
    other = Random(seed=4).rank(groups, found)
    assert not any(np.array_equal(other[name].scores, r.scores) for name, r in some.items())
    assert not np.array_equal(some["features.4"].scores, some["features.7"].scores)


def test_scores_are_uniform_over_many_seeds() -> None:
    found = evidence("vgg")
    group = found.network.structure.groups[:1]
    drawn = np.concatenate([Random(seed=s).rank(group, found)["features.0"].scores for s in range(200)])
    counts = np.histogram(drawn, 10, (0, 1))[0]
    assert ((counts - 320) ** 2 / 320).sum() < 27.9  # chi squared, 9 degrees of freedom, p = 0.001


def test_the_seed_is_an_option() -> None:
    model, x = built("vgg")
    plans = [prune(model, x, criterion="random", criterion_options={"seed": s}).plan.kept for s in (1, 1, 2)]
    kept = [plan["features.4.weight"][0].tolist() for plan in plans]
    assert kept[0] == kept[1] != kept[2]
    with pytest.raises(UserError, match="criterion random: seed"):
        criterion_of("random", {"seed": -1})
