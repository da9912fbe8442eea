"""Pooling, resizing and rearranging of space: the trailing, spatial dimensions change, channels pass."""

import numpy as np

from pipeline.pruning.rules.base import Call, Flow, Labels, Value, rule

_POOLS = ("max_pool", "avg_pool", "lp_pool", "adaptive_avg_pool", "adaptive_max_pool")
_SPATIAL = {f"{kind}{n}d": n for kind in _POOLS for n in (1, 2, 3)}
_SPATIAL |= {f"max_pool{n}d_with_indices": n for n in (1, 2, 3)}
_SPATIAL |= {f"upsample_{kind}{n}d": n for kind in ("nearest", "_nearest_exact") for n in (1, 2, 3)}
_SPATIAL |= {"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_trilinear3d": 3}
_SPATIAL |= {"_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "_upsample_nearest_exact2d": 2}
_SPATIAL |= {"reflection_pad1d": 1, "reflection_pad2d": 2, "replication_pad1d": 1, "replication_pad2d": 2}


@rule(*_SPATIAL)
def pool(flow: Flow, call: Call) -> Value:
    """Pass all but the spatial dimensions."""
    x = call.x
    spatial = _SPATIAL[call.op]
    flow.keep(*x.dims[-spatial:], reason=call.reason)
    results = tuple(Labels(shape, (*x.dims[:-spatial], *(None for _ in range(spatial)))) for shape in call.shapes)
    return results[0] if len(results) == 1 else results


@rule("grid_sampler", "grid_sampler_2d")
def grid_sampler(flow: Flow, call: Call) -> Labels:
    """Sample space at given places."""
    x = call["input"]
    flow.keep(*call["grid"].dims, *x.dims[2:], reason=call.reason)
    return Labels(call.shape, (*x.dims[:2], None, None))


@rule("pixel_shuffle")
def pixel_shuffle(flow: Flow, call: Call) -> Labels:
    """Turn r² channels into one of r × r as many positions: they go together."""
    x, r = call.x, call["upscale_factor"]
    ids = x.dims[-3]
    if ids is not None:
        lines = ids.reshape(-1, r * r)
        flow.unite_all(lines[:, :1], lines)
        ids = np.ascontiguousarray(lines[:, 0])
    flow.keep(*x.dims[-2:], reason=call.reason)
    return Labels(call.shape, (*x.dims[:-3], ids, None, None))


@rule("pixel_unshuffle", "im2col")
def unshuffle(flow: Flow, call: Call) -> Labels:
    """Turn positions into channels, those of one channel beside each other."""
    x = call.x
    axis = len(x.shape) - 3
    flow.keep(*x.dims[axis + 1 :], reason=call.reason)
    ids = x.dims[axis]
    if ids is not None:
        ids = np.repeat(ids, call.shape[axis] // x.shape[axis])
    return Labels(call.shape, (*x.dims[:axis], ids, *(None for _ in call.shape[axis + 1 :])))


@rule("col2im")
def col2im(flow: Flow, call: Call) -> Labels:
    """Turn the channels of every kernel position back into one."""
    x = call.x
    ids = x.dims[-2]
    if ids is not None:
        lines = ids.reshape(call.shape[-3], -1)
        flow.unite_all(lines[:, :1], lines)
        ids = np.ascontiguousarray(lines[:, 0])
    flow.keep(x.dims[-1], reason=call.reason)
    return Labels(call.shape, (*x.dims[:-2], ids, None, None))


@rule("unfold")
def unfold(flow: Flow, call: Call) -> Labels:
    """Slide a window along one dimension; its content becomes the last one."""
    x, dim = call.x, call["dimension"] % len(call.x.shape)
    flow.keep(x.dims[dim], reason=call.reason)
    return Labels(call.shape, (*(None if d == dim else ids for d, ids in enumerate(x.dims)), None))
