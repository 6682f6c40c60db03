"""The prefix tree of the responses drawn so far.

A node is a prefix, and the root is the empty one. Nodes are numbered as they came, so those that one response added are
a run of consecutive numbers, each the parent of the next. A tree is a few arrays with an entry a node, and the tokens
with which runs begin.

A tree never changes. One with more responses is another one, made by copying those arrays: that costs little, and a
state of the search stays what it was.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aisp.records import NO_TOKENS, FloatArray, Tokens
from aisp.strategies.tilted_restart.improvement import IntArray, expected_improvement

# A prefix whose untried tokens have less probability than this counts as exhausted. Rounding errors of bfloat16
# log-probabilities are about as large.
_LEAST_OPEN = 1e-3


class Explored:
    """The prefix tree of the responses drawn so far.

    Args:
        responses: Their `log_prior` must be of one law.
    """

    def __init__(self, responses: Iterable[Tokens] = ()) -> None:
        self.responses: tuple[Tokens, ...] = ()
        self._firsts: tuple[int, ...] = ()  # the first node of each response's run
        self._branches: dict[tuple[int, int], int] = {}  # the response whose run begins behind a node, with a token
        self._paths: dict[tuple[int, ...], IntArray] = {}  # the nodes along each response, the root first
        self._parents = np.zeros(1, dtype=np.int64)  # the node before each
        self._depths = np.zeros(1, dtype=np.int64)  # the length of a node's prefix
        self._tried = np.zeros(1)  # the model's probability of a node's children together
        self._reach = np.ones(1)  # the model's probability of a node's prefix
        for response in responses:
            self._add(response)

    def followed_by(self, responses: Iterable[Tokens]) -> Explored:
        """Return the tree of these responses as well, and leave this one as it is."""
        tree = copy.copy(self)
        for response in responses:
            tree._add(response)
        return tree

    def leaves(self, ids: Sequence[int]) -> int:
        """Return after how many tokens a response leaves the tree, or its length if it stays inside."""
        return len(self._path(ids)) - 1

    def tried(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that were tried behind a prefix of the tree."""
        path = self._path(ids)
        children = np.flatnonzero(self._parents[1:] == path[-1]) + 1
        return tuple(self._owner(child).ids[len(path) - 1] for child in children.tolist())

    def is_open(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """Return where in a response of the tree something is left to try: before each token, shape (length,)."""
        return self._is_open(self._path(ids)[:-1])

    def open_parents(self, responses: Sequence[Tokens]) -> list[int]:
        """Return the places of the responses that can be restarted from, the first of equal ones only."""
        first = {response.ids: place for place, response in reversed(list(enumerate(responses)))}
        if not responses:
            return []
        nodes, places = self._before_tokens(responses)
        is_open = np.bincount(places, self._is_open(nodes), minlength=len(responses)) > 0
        return sorted(place for place in first.values() if is_open[place])

    def exit_masses(self) -> FloatArray:
        """Return the model's probability of leaving the tree behind each of its prefixes, shape (prefixes,)."""
        left = 1.0 - self._tried
        masses = np.where(left > _LEAST_OPEN, self._reach * left, 0.0)
        masses[[path[-1] for path in self._paths.values()]] = 0.0
        return masses

    def gains(self, rewards: Sequence[tuple[Tokens, float]]) -> FloatArray:
        """Return the improvement expected behind each of the prefixes, shape (prefixes,).

        Args:
            rewards: At least one response of the tree, each with its reward.
        """
        ends = np.array([self.exit_prefix(tokens.ids) for tokens, _ in rewards])
        return expected_improvement(self._parents, self._depths, ends, [reward for _, reward in rewards])

    def cuts(self, responses: Sequence[Tokens], gains: FloatArray) -> FloatArray:
        """Return unnormalised probabilities of a cut before each token of some responses of the tree.

        A cut's mass is its share of the entropy of all open places of its response, times the gain there.

        Args:
            responses: At least one.
            gains: Of each prefix, shape (prefixes,).

        Returns:
            Shape (tokens,), of one response behind the other.
        """
        nodes, places = self._before_tokens(responses)
        entropy = np.concatenate([response.entropy for response in responses])
        masses = np.where(self._is_open(nodes), entropy, 0.0)
        totals = np.bincount(places, masses)
        return np.asarray(masses / np.where(totals == 0, 1.0, totals)[places] * gains[nodes])

    def head(self, prefix: int) -> Tokens:
        """Return one of the prefixes as tokens."""
        return self._owner(prefix).head(int(self._depths[prefix])) if prefix else NO_TOKENS

    def exit_prefix(self, ids: Sequence[int]) -> int:
        """Return the prefix behind which a response leaves the tree."""
        return int(self._path(ids)[-1])

    def _owner(self, node: int) -> Tokens:
        """Return the response that added a node."""
        return self.responses[bisect_right(self._firsts, node) - 1]

    def _before_tokens(self, responses: Sequence[Tokens]) -> tuple[IntArray, IntArray]:
        """Return the node before each token of some responses of the tree, and the place of that response."""
        paths = [self._path(response.ids)[:-1] for response in responses]
        return np.concatenate(paths), np.repeat(np.arange(len(paths)), [*map(len, paths)])

    def _is_open(self, nodes: IntArray) -> NDArray[np.bool_]:
        """Return behind which nodes something is left to try, shape (nodes,)."""
        return np.asarray(1.0 - self._tried[nodes] > _LEAST_OPEN)

    def _path(self, ids: Sequence[int]) -> IntArray:
        """Return the nodes along a response, the root first, up to where it leaves the tree."""
        known = self._paths.get(tuple(ids))
        return np.array(self._walk(ids)) if known is None else known

    def _walk(self, ids: Sequence[int]) -> list[int]:
        """Find the nodes along a response that the tree may not have, as `_path` returns them."""
        nodes: list[int] = [0]
        run: tuple[int, ...] = ()  # the response that the last node's run belongs to
        for t, token in enumerate(ids):
            if run[t : t + 1] == (token,):
                nodes.append(nodes[-1] + 1)
            elif (branch := self._branches.get((nodes[-1], token))) is not None:
                nodes.append(self._firsts[branch])
                run = self.responses[branch].ids
            else:
                break
        return nodes

    def _add(self, response: Tokens) -> None:
        """Add a response. Everything is replaced, not changed, since other trees share it."""
        nodes = self._walk(response.ids)
        kept, node, first = len(nodes) - 1, nodes[-1], len(self._parents)
        run = np.arange(first, first + len(response) - kept)
        if len(run):
            shares = np.exp(response.log_prior[kept:])
            self._branches = self._branches | {(node, response.ids[kept]): len(self.responses)}
            self._parents = np.concatenate([self._parents, [node], run[:-1]])
            self._depths = np.concatenate([self._depths, np.arange(kept, len(response)) + 1])
            self._tried = np.concatenate([self._tried, shares[1:], [0.0]])
            self._tried[node] += shares[0]
            self._reach = np.concatenate([self._reach, np.cumprod([self._reach[node], *shares])[1:]])
        self._paths = self._paths | {response.ids: np.concatenate([nodes, run])}
        self._firsts += (first,)
        self.responses += (response,)
