"""What two pruning plans do differently, a line per group of channels."""

from collections.abc import Iterator

from pipeline.pruning.plan import GroupCut, Plan, positions

WHOLE = "whole"


def differences(a: Plan, b: Plan) -> Iterator[str]:
    """Say, for every module and group that the plans treat differently, what each does: "layer: 64 -> 40 | 64 -> 48".

    Groups of one width that keep other channels are told with how many of them the plans share.
    """
    for name in dict.fromkeys([*a.removed, *b.removed]):
        one, other = ("removed" if name in plan.removed else "stays" for plan in (a, b))
        if one != other:
            yield f"{name}: {one} | {other}"
    first, second = ({group.name: group for group in plan.groups} for plan in (a, b))
    for name in dict.fromkeys([*first, *second]):
        cut, cut_too = first.get(name), second.get(name)
        if cut is None or cut_too is None or _key(cut) != _key(cut_too):
            yield f"{name}: {_told(cut)} | {_told(cut_too)}{_shared(cut, cut_too)}"


def _key(group: GroupCut) -> tuple[int, int, str]:
    return group.before, group.after, group.kept


def _told(group: GroupCut | None) -> str:
    return WHOLE if group is None else f"{group.before} -> {group.after}"


def _shared(a: GroupCut | None, b: GroupCut | None) -> str:
    if a is None or b is None or (a.before, a.after) != (b.before, b.after):
        return ""
    kept = set(positions(a.kept))
    return f" ({len(kept & set(positions(b.kept)))} of {len(kept)} units kept by both)"
