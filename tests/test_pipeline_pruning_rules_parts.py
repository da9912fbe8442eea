"""Splits, slices, selections, norms over channels, and what rearranges or repeats them."""

import numpy as np
import pytest
from rule_calls import activation, frozen, run, same, several

from pipeline.pruning.rules.base import Flow, Labels


def test_unequal_parts_go_on_their_own() -> None:
    flow = Flow()
    x = activation(flow, 1, 6, 2)
    a, b = several(flow, "split_with_sizes", ((1, 2, 2), (1, 4, 2)), self=x, split_sizes=[2, 4], dim=1)
    assert (a.dims[1].tolist(), b.dims[1].tolist()) == ([0, 1], [2, 3, 4, 5])
    assert flow.channels.roots().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("op", ["split", "chunk"])
def test_parts_of_one_size_lose_the_same_places(op: str) -> None:
    flow = Flow()
    x = activation(flow, 1, 6)
    several(flow, op, ((1, 2),) * 3, self=x, split_size=2, chunks=3, dim=-1)
    assert flow.channels.roots()[x.dims[1]].tolist() == [0, 1] * 3
    assert not any(frozen(flow, x.dims[1]))


def test_a_shorter_last_part_keeps_all() -> None:
    flow = Flow()
    x = activation(flow, 1, 5)
    several(flow, "split", ((1, 2), (1, 2), (1, 1)), self=x, split_size=2, dim=1)
    assert all(frozen(flow, x.dims[1]))
    assert list(flow.channels.reasons()) == ["aten.split"]


def test_glu_unites_its_halves() -> None:
    flow = Flow()
    x = activation(flow, 1, 6, 2)
    y = run(flow, "glu", (1, 3, 2), self=x, dim=1)
    assert same(flow, x.dims[1][:3], x.dims[1][3:])
    assert same(flow, y.dims[1], x.dims[1][:3])


def test_narrow_passes_its_part_and_select_keeps_what_it_takes_from() -> None:
    flow = Flow()
    x = activation(flow, 1, 6, 2)
    assert run(flow, "narrow", (1, 2, 2), self=x, dim=1, start=-3, length=2).dims[1].tolist() == [3, 4]
    assert not any(frozen(flow, x.dims[1]))
    y = run(flow, "select", (1, 2), self=x, dim=1, index=0)
    assert y.dims == (None, None)
    assert all(frozen(flow, x.dims[1]))


def test_unbinding_another_dimension_passes_channels_to_every_part() -> None:
    flow = Flow()
    x = activation(flow, 3, 4)
    parts = several(flow, "unbind", ((4,),) * 3, self=x, dim=0)
    assert [p.dims[0].tolist() for p in parts] == [[0, 1, 2, 3]] * 3


def test_indexing_a_dimension_keeps_it_and_puts_the_result_where_torch_does() -> None:
    flow = Flow()
    x, index = activation(flow, 2, 4, 5), Labels.blank((3,))
    beside = run(flow, "index", (2, 4, 3), self=x, indices=[None, None, index])
    assert beside.dims[1].tolist() == x.dims[1].tolist()
    apart = run(flow, "index", (3, 4), self=x, indices=[index, None, index])
    assert apart.dims[0] is None
    assert apart.dims[1].tolist() == x.dims[1].tolist()
    run(flow, "index", (2, 3, 5), self=x, indices=[None, index])
    assert flow.channels.reasons()["aten.index"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("groups", "classes"), [(2, [0, 1, 2, 0, 1, 2]), (3, [0, 0, 2, 2, 4, 4]), (1, range(6))])
def test_group_norm_loses_whole_groups_or_the_same_places_of_each(groups: int, classes: list[int]) -> None:
    flow = Flow()
    x, scale = activation(flow, 2, 6, 4), flow.tensor("scale", (6,))
    run(flow, "group_norm", x.shape, input=x, num_groups=groups, weight=scale, bias=None)
    assert flow.channels.roots()[x.dims[1]].tolist() == [*classes]
    assert same(flow, scale.dims[0], x.dims[1])


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_norms_over_channels_tie_their_scale_and_let_channels_go(op: str) -> None:
    flow = Flow()
    x, scale = activation(flow, 2, 3, 4, channels=2), flow.tensor("scale", (4,))
    y = run(flow, op, x.shape, input=x, normalized_shape=[4], weight=scale)
    assert same(flow, y.dims[2], scale.dims[0])
    assert not any(frozen(flow, y.dims[2]))


def test_pixel_shuffle_takes_the_channels_of_one_pixel_together() -> None:
    flow = Flow()
    x = activation(flow, 1, 8, 2, 2)
    y = run(flow, "pixel_shuffle", (1, 2, 4, 4), self=x, upscale_factor=2)
    assert flow.channels.roots()[x.dims[1]].tolist() == [0] * 4 + [4] * 4
    back = run(flow, "pixel_unshuffle", (1, 8, 2, 2), self=y, downscale_factor=2)
    assert same(flow, back.dims[1], x.dims[1])


def test_repeats_lay_copies_behind_or_beside_each_other() -> None:
    flow = Flow()
    x = activation(flow, 1, 3, 2)
    assert run(flow, "repeat", (1, 6, 2), self=x, repeats=[1, 2, 1]).dims[1].tolist() == [0, 1, 2] * 2
    beside = run(flow, "repeat_interleave", (1, 6, 2), self=x, repeats=2, dim=1)
    assert beside.dims[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert not any(frozen(flow, x.dims[1]))


def test_what_is_expanded_from_one_position_can_be_of_any_width() -> None:
    flow = Flow()
    scale, x = Labels.blank((1, 1, 2)), activation(flow, 1, 4, 2)
    wide = run(flow, "expand", (1, 4, 2), self=scale, size=[-1, 4, -1])
    run(flow, "mul", x.shape, self=x, other=wide)
    assert not any(frozen(flow, x.dims[1]))
    assert same(flow, wide.dims[1], x.dims[1])


@pytest.mark.parametrize(("source", "destination"), [(1, -1), ([0, 2], [2, 0]), ([-1], [0])])
def test_movedim_moves_ids_as_numpy_moves_axes(source: object, destination: object) -> None:
    flow = Flow()
    x = flow.tensor("w", (2, 3, 4))
    shape = np.moveaxis(np.empty(x.shape), source, destination).shape
    y = run(flow, "movedim", shape, self=x, source=source, destination=destination)
    assert [len(ids) for ids in y.dims] == list(shape)
    swapped = run(flow, "mT", (2, 4, 3), self=x)
    assert [len(ids) for ids in swapped.dims] == [2, 4, 3]


def test_a_transposed_convolution_reads_its_rows_and_makes_its_columns() -> None:
    flow = Flow()
    x, weight = activation(flow, 1, 4, 5), flow.tensor("w", (4, 6, 3))
    y = run(flow, "conv_transpose1d", (1, 6, 5), input=x, weight=weight, bias=None, groups=1)
    assert same(flow, x.dims[1], weight.dims[0])
    assert same(flow, y.dims[1], weight.dims[1])
    assert flow.marked("in")[weight.dims[0]].all()
    assert flow.marked("out")[weight.dims[1]].all()


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize(
    ("kernel", "stride", "rows"), [(1, [1], 6), (1, [1, 1], 6), (3, [1, 1], 6), (1, [2, 1], 6), (1, [1, 1], 8)]
)
def test_positions_pass_a_kernel_of_one_that_neither_strides_nor_pads(
    op: str, kernel: int, stride: list[int], rows: int
) -> None:
    flow = Flow()
    x, weight = activation(flow, 2, 4, 6, 5, channels=2), Labels.blank((4, 4, kernel, 3))
    y = run(flow, op, (2, 4, rows, 5), input=x, weight=weight, bias=None, groups=1, stride=stride)
    passes = (kernel, {*stride}, rows) == (1, {1}, 6)
    assert frozen(flow, x.dims[2]) == [not passes] * 6
    assert (y.dims[2] is not None) == passes
    if passes:
        assert same(flow, y.dims[2], x.dims[2])


def test_an_embedding_keeps_its_rows_and_makes_its_columns() -> None:
    flow = Flow()
    weight = flow.tensor("w", (7, 4))
    y = run(flow, "embedding", (2, 3, 4), weight=weight, indices=Labels.blank((2, 3)))
    assert same(flow, y.dims[2], weight.dims[1])
    assert all(frozen(flow, weight.dims[0]))
    assert not any(frozen(flow, weight.dims[1]))
