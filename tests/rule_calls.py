"""Calls of single rules, with what they must always give checked."""

from pipeline.pruning.rules.base import Call, Flow, Labels, Value, rules


def several(flow: Flow, op: str, shapes: tuple[tuple[int, ...], ...], **arguments: object) -> tuple[Labels, ...]:
    result: Value = rules()[op](flow, Call(op, arguments, shapes))
    items = result if isinstance(result, tuple) else (result,)
    for item, shape in zip(items, shapes, strict=True):
        assert isinstance(item, Labels)
        assert item.shape == shape
        assert all(ids is None or len(ids) == n for ids, n in zip(item.dims, shape, strict=True))
    return items


def run(flow: Flow, op: str, shape: tuple[int, ...], **arguments: object) -> Labels:
    return several(flow, op, (shape,), **arguments)[0]


def activation(flow: Flow, *shape: int, channels: int = 1) -> Labels:
    dims = tuple(flow.channels.fresh(n) if d == channels % len(shape) else None for d, n in enumerate(shape))
    return Labels(shape, dims)


def same(flow: Flow, a: object, b: object) -> bool:
    """Whether two dimensions hold the same channels."""
    roots = flow.channels.roots()
    return roots[a].tolist() == roots[b].tolist()


def frozen(flow: Flow, ids: object) -> list[bool]:
    return flow.channels.frozen()[flow.channels.roots()[ids]].tolist()
