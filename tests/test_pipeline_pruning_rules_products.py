"""Products of activations: every spelling of one contraction unites the same dimensions."""

import pytest
from rule_calls import frozen, run, same

from pipeline.pruning.rules.base import Flow, Labels


def labelled(flow: Flow, *shape: int) -> Labels:
    return Labels(shape, flow.fresh(shape))


def attention(flow: Flow, scale: float | None, mask: Labels | None = None) -> tuple[Labels, Labels, Labels, Labels]:
    q, k, v = labelled(flow, 2, 3, 4, 5), labelled(flow, 2, 3, 6, 5), labelled(flow, 2, 3, 6, 7)
    op = "scaled_dot_product_attention"
    y = run(flow, op, (2, 3, 4, 7), query=q, key=k, value=v, attn_mask=mask, scale=scale)
    return q, k, v, y


@pytest.mark.parametrize("spelling", ["bmm", "matmul", "einsum", "baddbmm"])
def test_a_batched_product_unites_batches_and_what_is_summed(spelling: str) -> None:
    flow = Flow()
    a, b = labelled(flow, 2, 3, 4), labelled(flow, 2, 4, 5)
    given = {
        "bmm": {"self": a, "mat2": b},
        "matmul": {"self": a, "other": b},
        "einsum": {"equation": "bij, bjk -> bik", "tensors": [a, b]},
        "baddbmm": {"self": Labels.blank((1, 1, 1)), "batch1": a, "batch2": b},
    }[spelling]
    y = run(flow, spelling, (2, 3, 5), **given)
    assert same(flow, a.dims[2], b.dims[1])
    assert same(flow, a.dims[0], b.dims[0])
    assert [same(flow, y.dims[d], source) for d, source in enumerate((a.dims[0], a.dims[1], b.dims[2]))] == [True] * 3
    assert flow.marked("head")[y.dims[0]].all()
    assert not flow.marked("head")[y.dims[1]].any()
    assert not flow.channels.frozen().any()


@pytest.mark.parametrize(
    ("op", "a", "b", "out"),
    [
        ("mm", (3, 4), (4, 5), (3, 5)),
        ("mv", (3, 4), (4,), (3,)),
        ("dot", (4,), (4,), ()),
        ("matmul", (4,), (4, 5), (5,)),
    ],
)
def test_products_of_every_rank_unite_what_is_summed(
    op: str, a: tuple[int, ...], b: tuple[int, ...], out: tuple[int, ...]
) -> None:
    flow = Flow()
    left, right = labelled(flow, *a), labelled(flow, *b)
    run(flow, op, out, self=left, other=right)
    assert same(flow, left.dims[-1], right.dims[0])


def test_a_batch_that_is_broadcast_is_no_head_and_freezes_nothing() -> None:
    flow = Flow()
    a, b = labelled(flow, 2, 3, 4), labelled(flow, 4, 5)
    y = run(flow, "matmul", (2, 3, 5), self=a, other=b)
    assert same(flow, y.dims[0], a.dims[0])
    assert not flow.marked("head").any()
    assert not flow.channels.frozen().any()


def test_a_parameter_in_a_product_reads_what_is_summed_and_makes_the_rest() -> None:
    flow = Flow()
    weight = flow.tensor("w", (4, 5))
    run(flow, "matmul", (2, 5), self=labelled(flow, 2, 4), other=weight)
    assert flow.marked("in")[weight.dims[0]].all()
    assert flow.marked("out")[weight.dims[1]].all()


@pytest.mark.parametrize("equation", ["...ij,...jk->...ik", "ii,ij->ij", "ij,jk"])
def test_einsums_that_are_not_understood_freeze_what_reaches_them(equation: str) -> None:
    flow = Flow()
    a, b = labelled(flow, 4, 4), labelled(flow, 4, 4)
    run(flow, "einsum", (4, 4), equation=equation, tensors=[a, b])
    assert flow.channels.frozen().all()
    assert list(flow.channels.reasons()) == ["aten.einsum"]


@pytest.mark.parametrize(("scale", "kept"), [(None, True), (0.5, False)])
def test_attention_keeps_the_width_that_its_default_scale_depends_on(scale: float | None, kept: bool) -> None:
    flow = Flow()
    q, k, v, y = attention(flow, scale)
    assert frozen(flow, q.dims[3]) == [kept] * 5
    assert same(flow, q.dims[3], k.dims[3])
    assert same(flow, k.dims[2], v.dims[2])
    assert all(same(flow, t.dims[1], y.dims[1]) for t in (q, k, v))
    assert same(flow, y.dims[3], v.dims[3])
    assert not any(frozen(flow, v.dims[3]))
    assert flow.marked("head")[y.dims[1]].all()


def test_a_mask_goes_with_the_scores_it_is_added_to() -> None:
    flow = Flow()
    mask = labelled(flow, 3, 1, 6)
    _, k, _, y = attention(flow, 0.5, mask)
    assert same(flow, mask.dims[0], y.dims[1])
    assert same(flow, mask.dims[2], k.dims[2])
