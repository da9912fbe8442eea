import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning.channels import FIXED, Channels, components, kept, stays


def slow_components(size: int, edges: list[tuple[int, int]]) -> list[int]:
    label = list(range(size))
    for a, b in edges * size:
        label[a] = label[b] = min(label[a], label[b])
    return label


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_equal_a_slow_relaxation(case: tuple[int, list[tuple[int, int]]]) -> None:
    size, edges = case
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    assert components(size, pairs[:, 0], pairs[:, 1]).tolist() == slow_components(size, edges)


def test_a_long_chain_in_random_order_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(20_000)
    assert not components(20_000, order[:-1], order[1:]).any()


def test_freezing_reaches_the_whole_class_and_names_each_reason() -> None:
    channels = Channels()
    a, b, c = (channels.fresh(3) for _ in range(3))
    channels.unite(a, b)
    channels.freeze(b[1:2], "op")
    channels.freeze(a[1:3], "other")
    assert channels.frozen()[channels.roots()].tolist() == [False, True, True] * 2 + [False] * 3
    assert {why: roots.tolist() for why, roots in channels.reasons().items()} == {"op": [1], "other": [1, 2]}
    assert not channels.frozen()[channels.roots()[c]].any()


def test_uniting_with_a_fixed_position_freezes_without_a_reason() -> None:
    channels = Channels()
    a, b = channels.fresh(3), channels.fresh(3)
    channels.unite(np.array([a[0], FIXED, FIXED]), np.array([b[0], b[1], FIXED]))
    roots = channels.roots()
    assert roots[b[0]] == a[0]
    assert channels.frozen()[roots[b]].tolist() == [False, True, False]
    assert channels.reasons() == {}


def test_positions_without_an_id_stay_and_only_dimensions_that_lose_some_are_told() -> None:
    alive = np.array([True, False, True])
    ids = np.array([2, FIXED, 1, 0, FIXED])
    assert stays(ids, alive).tolist() == [True, True, False, True, True]
    assert stays(np.full(2, FIXED), np.ones(0, bool)).all()  # a graph without any channels
    assert {d: p.tolist() for d, p in kept((None, ids, ids[:2]), alive).items()} == {1: [0, 1, 3, 4]}
