"""The methods by name, and which of them a kernel can have."""

from collections.abc import Mapping

from pipeline.lowrank.base import Method, Shape
from pipeline.lowrank.cp import Cp
from pipeline.lowrank.svd import Svd
from pipeline.lowrank.tucker import Tucker

METHODS: Mapping[str, Method] = {method.name: method for method in (Svd(), Tucker(), Cp())}
AUTO = "auto"


def candidates(name: str, shape: Shape) -> tuple[Method, ...]:
    """Return what `name` means for a weight of this shape.

    A kernel of one point is a matrix, for which every method is the singular value decomposition. "auto" tries
    what is fitted reliably and goes by the work; CP is tried where it is asked for.
    """
    svd, tucker = METHODS["svd"], METHODS["tucker"]
    if all(k == 1 for k in shape[2:]):
        return (svd,)
    return (svd, tucker) if name == AUTO else (METHODS[name],)
