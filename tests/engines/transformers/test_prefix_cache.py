"""The radix tree of keys and values: what it finds, and what it forgets."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aisp.engines.transformers.prefix_cache import PrefixCache

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=12)


def kv_of(tokens):
    """Keys and values that spell the prefix they belong to, so that a mix-up shows."""
    keys = torch.tensor([[[float(hash(tuple(tokens[: i + 1])) % 100_003)] for i in range(len(tokens))]])
    return [(keys, -keys)]


@settings(max_examples=200, deadline=None)
@given(sequences, st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), st.integers(0, 12))
def test_the_longest_known_prefix_is_found_with_its_own_keys(known, asked, start):
    tree = PrefixCache(max_bytes=1 << 30)
    for tokens in known:
        tree.insert(tokens, kv_of(tokens))
    length, kv = tree.match(asked, start=start)
    longest = max(
        next((i for i in range(len(asked)) if asked[: i + 1] != tokens[: i + 1]), len(asked)) for tokens in known
    )
    assert length == longest
    if length > start:
        assert kv is not None
        torch.testing.assert_close(kv[0][0], kv_of(asked)[0][0][:, start:length])
        torch.testing.assert_close(kv[0][1], kv_of(asked)[0][1][:, start:length])
    else:
        assert kv is None


@settings(max_examples=100, deadline=None)
@given(sequences, st.integers(0, 200))
def test_memory_is_bounded_and_counted(known, limit):
    tree = PrefixCache(max_bytes=limit)
    for tokens in known:
        tree.insert(tokens, kv_of(tokens))
        assert tree.bytes <= limit
        held = sum(keys.nbytes + values.nbytes for node in tree._nodes() for keys, values in node.kv)
        assert held == tree.bytes


def test_the_leaf_used_least_lately_goes_first():
    tree = PrefixCache(max_bytes=6 * 8)
    tree.insert((1, 2, 3), kv_of((1, 2, 3)))
    tree.insert((4, 5, 6), kv_of((4, 5, 6)))
    tree.match((1, 2, 3))
    tree.insert((7,), kv_of((7,)))
    assert tree.match((1, 2, 3))[0] == 3
    assert tree.match((4, 5, 6))[0] == 0


def test_a_branch_whose_trunk_is_gone_is_not_remembered():
    tree = PrefixCache(max_bytes=1 << 20)
    tree.insert((1, 2, 3, 4), [(k[:, 2:], v[:, 2:]) for k, v in kv_of((1, 2, 3, 4))], start=2)
    assert tree.bytes == 0


def test_a_branch_is_kept_behind_its_trunk():
    tree = PrefixCache(max_bytes=1 << 20)
    tree.insert((1, 2), kv_of((1, 2)))
    branch = (1, 2, 3, 4)
    tree.insert(branch, [(k[:, 2:], v[:, 2:]) for k, v in kv_of(branch)], start=2)
    length, kv = tree.match(branch)
    assert length == 4
    torch.testing.assert_close(kv[0][0], kv_of(branch)[0][0])
