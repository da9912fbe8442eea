"""Low rank: layers whose weights are nearly of low rank become successive smaller layers.

result = factorize(model, example_inputs, method="tucker", ranks=Energy(0.9))
result.plan.save("plan.json")
shaped = LowRankPlan.load("plan.json").apply(fresh_model)  # then load the weights
"""

from pipeline.lowrank.engine import LayerResult, LowRankResult, factorize
from pipeline.lowrank.plan import LowRankPlan
from pipeline.lowrank.ranks import Budget, Energy, Vbmf

__all__ = ["Budget", "Energy", "LayerResult", "LowRankPlan", "LowRankResult", "Vbmf", "factorize"]
