import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_calls import activation, run

from pipeline.pruning.boxes import settle
from pipeline.pruning.groups import roles
from pipeline.pruning.rules.base import Call, Flow, Labels, Role, rule, rules, unknown


def test_rules_of_every_file_are_found_and_may_not_clash() -> None:
    assert {"conv2d", "linear", "batch_norm", "relu", "cat", "mean", "view", "max_pool2d"} <= set(rules())
    with pytest.raises(ValueError, match="two rules for relu"):
        rule("relu")(unknown)


def factors(n: int) -> st.SearchStrategy[list[int]]:
    """Shapes of n elements, ones among them."""
    if n == 1:
        return st.lists(st.just(1), max_size=2)
    divisors = [d for d in range(2, n + 1) if n % d == 0]
    return st.sampled_from(divisors).flatmap(lambda d: factors(n // d).map(lambda rest: [d, *rest]))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_reshape_moves_ids_as_it_moves_elements(data: st.DataObject) -> None:
    """Viewing ids as elements is the reference: once boxes are settled, one dimension carries them all."""
    shape = tuple(data.draw(st.permutations(data.draw(st.sampled_from([[2, 6, 3], [1, 4, 1, 5], [3, 8, 2, 2]])))))
    new = tuple(data.draw(factors(math.prod(shape)).flatmap(st.permutations)))
    dim = data.draw(st.sampled_from([d for d, n in enumerate(shape) if n > 1]))
    flow = Flow()
    x = activation(flow, *shape, channels=dim)
    ids = np.broadcast_to(x.dims[dim].reshape([-1 if d == dim else 1 for d in range(len(shape))]), shape)
    y = run(flow, "reshape", new, self=x)
    settle(flow)
    roots, frozen = flow.channels.roots(), flow.channels.frozen()
    carriers = [d for d, labels in enumerate(y.dims) if labels is not None and not frozen[roots[labels]].all()]
    assert len(carriers) == 1
    (carrier,) = carriers
    labels = y.dims[carrier].reshape([-1 if d == carrier else 1 for d in range(len(new))])
    assert not frozen[roots[x.dims[dim]]].any()
    assert np.array_equal(roots[np.broadcast_to(labels, new)], roots[ids.reshape(new)])


def test_flatten_repeats_ids_and_viewing_back_costs_nothing() -> None:
    flow = Flow()
    x = activation(flow, 2, 4, 3, 3)
    flat = run(flow, "flatten", (2, 36), self=x)
    assert flat.dims[1].tolist() == np.repeat(x.dims[1], 9).tolist()
    back = run(flow, "view", (2, 4, 3, 3), self=flat)
    assert back.dims[1].tolist() == x.dims[1].tolist()
    assert back.dims[2] is back.dims[3] is None
    assert not flow.channels.frozen().any()


def test_a_scale_with_dimensions_of_one_flattens_to_its_channels() -> None:
    flow = Flow()
    scale = flow.tensor("scale", (1, 4, 1, 1))
    assert run(flow, "flatten", (4,), self=scale).dims[0].tolist() == [0, 1, 2, 3]
    assert not flow.channels.frozen().any()


def test_channel_shuffle_couples_the_same_place_of_every_group() -> None:
    flow = Flow()
    x = activation(flow, 1, 6, 2, 2)
    apart = run(flow, "view", (1, 2, 3, 2, 2), self=x)
    swapped = run(flow, "transpose", (1, 3, 2, 2, 2), self=apart, dim0=1, dim1=2)
    shuffled = run(flow, "reshape", (1, 6, 2, 2), self=swapped)
    settle(flow)
    roots = flow.channels.roots()
    assert roots[x.dims[1]].tolist() == [0, 1, 2, 0, 1, 2]
    assert roots[shuffled.dims[1]].tolist() == [0, 0, 1, 1, 2, 2]


def test_of_two_dimensions_flattened_into_one_the_longer_carries_channels() -> None:
    flow = Flow()
    x = flow.tensor("w", (2, 3))
    y = run(flow, "flatten", (6,), self=x)
    settle(flow)
    roots, frozen = flow.channels.roots(), flow.channels.frozen()
    assert roots[y.dims[0]].tolist() == [*roots[x.dims[1]]] * 2
    assert frozen[roots[x.dims[0]]].all()
    assert not frozen[roots[x.dims[1]]].any()


def test_cat_concatenates_and_unites_the_rest() -> None:
    flow = Flow()
    a, b = flow.tensor("a", (2, 3)), flow.tensor("b", (4, 3))
    y = run(flow, "cat", (6, 3), tensors=[a, b], dim=0)
    assert y.dims[0].tolist() == [*a.dims[0], *b.dims[0]]
    roots = flow.channels.roots()
    assert roots[a.dims[1]].tolist() == roots[b.dims[1]].tolist()


def test_cat_with_channels_that_nothing_can_prune_marks_them_fixed() -> None:
    flow = Flow()
    x = activation(flow, 1, 2, 4, 4)
    y = run(flow, "cat", (1, 5, 4, 4), tensors=[Labels.blank((1, 3, 4, 4)), x], dim=1)
    assert y.dims[1].tolist() == [-1, -1, -1, *x.dims[1]]


def test_broadcasting_one_channel_over_many_freezes_only_the_one() -> None:
    flow = Flow()
    x, gate = activation(flow, 1, 4, 2, 2), activation(flow, 1, 1, 2, 2)
    y = run(flow, "mul", (1, 4, 2, 2), self=x, other=gate)
    assert y.dims[1].tolist() == x.dims[1].tolist()
    assert flow.channels.frozen().tolist() == [False] * 4 + [True]


def test_missing_leading_dimensions_align_from_the_right() -> None:
    flow = Flow()
    x, scale = activation(flow, 1, 4, 2, 2), flow.tensor("scale", (4, 1, 1))
    run(flow, "mul", (1, 4, 2, 2), self=x, other=scale)
    roots = flow.channels.roots()
    assert roots[scale.dims[0]].tolist() == roots[x.dims[1]].tolist()
    assert not flow.channels.frozen()[roots[scale.dims[0]]].any()


@pytest.mark.parametrize("op", ["softmax", "cumsum", "flip", "argmax"])
def test_what_every_channel_enters_freezes_them_by_name(op: str) -> None:
    flow = Flow()
    x = activation(flow, 2, 4, 3)
    argument = {"dims": [1]} if op == "flip" else {"dim": 1}
    run(flow, op, (2, 3) if op == "argmax" else (2, 4, 3), self=x, **argument)
    assert flow.channels.reasons()[f"aten.{op}"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("dim", "shape"), [([1], (2, 3)), ([], ()), (None, ())])
def test_a_reduction_over_channels_drops_their_place_and_lets_them_go(
    dim: list[int] | None, shape: tuple[int, ...]
) -> None:
    flow = Flow()
    assert run(flow, "mean", shape, self=activation(flow, 2, 4, 3), dim=dim).dims == (None,) * len(shape)
    assert not flow.channels.frozen().any()


def test_padding_channels_adds_positions_that_stay_and_cropping_freezes() -> None:
    flow = Flow()
    x = activation(flow, 1, 4, 2, 2)
    y = run(flow, "pad", (1, 7, 2, 2), self=x, pad=[0, 0, 0, 0, 1, 2], mode="constant")
    assert y.dims[1].tolist() == [-1, 0, 1, 2, 3, -1, -1]
    assert not flow.channels.frozen().any()
    run(flow, "pad", (1, 3, 2, 2), self=x, pad=[0, 0, 0, 0, 0, -1], mode="constant")
    assert flow.channels.frozen().all()


def test_slices_pass_the_ids_of_their_part_and_steps_freeze_channels() -> None:
    flow = Flow()
    x = activation(flow, 1, 4, 4, 4)
    y = run(flow, "slice", (1, 4, 2, 4), self=x, dim=2, start=0, end=4, step=2)
    assert y.dims[1].tolist() == [0, 1, 2, 3]
    part = run(flow, "slice", (1, 2, 2, 4), self=y, dim=-3, start=1, end=3, step=1)
    assert part.dims[1].tolist() == [1, 2]
    assert not flow.channels.frozen().any()
    run(flow, "slice", (1, 2, 2, 4), self=y, dim=-3, start=0, end=4, step=2)
    assert flow.channels.reasons()["aten.slice with steps"].tolist() == [0, 1, 2, 3]


def test_a_weight_computed_on_the_fly_still_couples_its_parameter() -> None:
    flow = Flow()
    weight = flow.tensor("w", (3, 5))
    turned = run(flow, "transpose", (5, 3), self=weight, dim0=0, dim1=1)
    y = run(flow, "linear", (2, 5), input=activation(flow, 2, 3), weight=turned, bias=None)
    assert y.dims[1].tolist() == weight.dims[1].tolist()
    role = roles(flow)
    assert (role("w", 0), role("w", 1)) == (Role.IN, Role.OUT)


def test_an_unknown_op_names_itself_to_all_that_it_reaches() -> None:
    flow = Flow()
    x = activation(flow, 1, 4)
    y = unknown(flow, Call("mystery", {"self": x, "n": 3}, ((1, 2),)))
    assert isinstance(y, Labels)
    w = flow.tensor("w", (3, 2))
    run(flow, "linear", (1, 3), input=y, weight=w, bias=None)
    blocked = flow.channels.reasons()["aten.mystery"]
    roots = flow.channels.roots()
    assert np.isin(roots[x.dims[1]], blocked).all()
    assert np.isin(roots[w.dims[1]], blocked).all()
    assert not np.isin(roots[w.dims[0]], blocked).any()
