"""Pooling and resizing: the trailing, spatial dimensions change, channels pass."""

from pipeline.pruning.rules.base import Call, Flow, Labels, rule

_SPATIAL = {f"{kind}{n}d": n for kind in ("max_pool", "avg_pool", "adaptive_avg_pool") for n in (1, 2, 3)}
_SPATIAL |= {f"upsample_{kind}2d": 2 for kind in ("nearest", "bilinear", "bicubic")}


@rule(*_SPATIAL)
def pool(flow: Flow, call: Call) -> Labels:
    """Pass all but the spatial dimensions."""
    x = call.get("self") or call["input"]
    spatial = _SPATIAL[call.op]
    flow.keep(*x.dims[-spatial:])
    return Labels(call.shape, (*x.dims[:-spatial], *(None for _ in range(spatial))))
