"""Restarts: keep a prefix of a good response, and leave it for a token that was not tried there.

The probability of every token is known once it is drawn. So is, at no cost, the probability of all tokens that were
not tried behind a prefix: 1 less the sum over those that were. A restart leaves the tree of earlier responses at
exactly one place, so its probability in a round is a short sum over the parents j that begin with y_<c:

    q(y) = q(y_>=c | y_c not tried) . ((1 - a) sum_j P(j, c) + a P(c))

P(j, c) is proportional to three factors: the parent's weight, how open its token at c was (its share of the parent's
entropy), and the improvement expected of a response that leaves the tree there (`improvement`).

The share a starts fresh, much as plain sampling without replacement would. P(c) is proportional to the model's
probability of leaving the tree there, and again to the expected improvement; among failures that is greatest where
least was tried, at the first tokens. The share a is the fraction of pairs of parents that tie for best: rewards can't
tell these apart, and where they can tell none apart, the whole round starts fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aisp.records import NO_TOKENS, FloatArray, Tokens
from aisp.strategies.tilted_restart.improvement import expected_improvement
from aisp.strategies.weights import normalise, tilt

# A prefix whose untried tokens have less probability than this counts as exhausted. Rounding errors of bfloat16
# log-probabilities are about as large.
_LEAST_OPEN = 1e-3


class Explored:
    """The prefix tree of the responses drawn so far.

    Args:
        responses: All responses. Their `log_prior` must be of one law.
    """

    def __init__(self, responses: Iterable[Tokens]) -> None:
        self._children: list[dict[int, int]] = [{}]  # the child nodes of each node, by token
        self._tried: list[float] = [0.0]  # the model's probability of a node's children together
        self._reach: list[float] = [1.0]  # the model's probability of a node's prefix
        self._heads: list[tuple[Tokens, int]] = [(NO_TOKENS, 0)]  # a response with a node's prefix, and its length
        self._parents: list[int] = [0]
        self._ends: set[int] = set()
        for response in responses:
            node = 0
            for t, (token, share) in enumerate(zip(response.ids, np.exp(response.log_prior).tolist(), strict=True)):
                if token not in self._children[node]:
                    self._children[node][token] = len(self._children)
                    self._tried[node] += share
                    self._children.append({})
                    self._tried.append(0.0)
                    self._reach.append(self._reach[node] * share)
                    self._heads.append((response, t + 1))
                    self._parents.append(node)
                node = self._children[node][token]
            self._ends.add(node)

    def leaves(self, ids: Sequence[int]) -> int:
        """Return after how many tokens a response leaves the tree, or its length if it stays inside."""
        return len(self._path(ids)) - 1

    def tried(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that were tried behind a prefix of the tree."""
        return tuple(self._children[self._path(ids)[-1]])

    def is_open(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """Return where in a response of the tree something is left to try: before each token, shape (length,)."""
        return self._is_open(self._path(ids)[:-1])

    def open_parents(self, responses: Sequence[Tokens]) -> list[int]:
        """Return the places of the responses that can be restarted from, the first of equal ones only."""
        first = {response.ids: place for place, response in reversed(list(enumerate(responses)))}
        return sorted(place for ids, place in first.items() if self.is_open(ids).any())

    def exit_masses(self) -> FloatArray:
        """Return the model's probability of leaving the tree behind each of its prefixes, shape (prefixes,)."""
        left = 1.0 - np.array(self._tried)
        masses = np.where(left > _LEAST_OPEN, self._reach * left, 0.0)
        masses[list(self._ends)] = 0.0
        return masses

    def gains(self, rewards: Sequence[tuple[Tokens, float]]) -> FloatArray:
        """Return the improvement expected behind each of the prefixes, shape (prefixes,).

        Args:
            rewards: At least one response of the tree, each with its reward.
        """
        ends = [self._path(tokens.ids)[-1] for tokens, _ in rewards]
        depths = [length for _, length in self._heads]
        return expected_improvement(self._parents, depths, ends, [reward for _, reward in rewards])

    def cuts(self, response: Tokens, gains: FloatArray) -> FloatArray:
        """Return unnormalised probabilities of a cut before each token of a response, shape (length,).

        A cut's mass is its share of the entropy of all open places, times the gain there.
        """
        places = self._path(response.ids)[:-1]
        masses = np.where(self._is_open(places), response.entropy, 0.0)
        return np.asarray(masses / (masses.sum() or 1.0) * gains[places])

    def head(self, prefix: int) -> Tokens:
        """Return one of the prefixes as tokens."""
        response, length = self._heads[prefix]
        return response.head(length)

    def exit_prefix(self, ids: Sequence[int]) -> int:
        """Return the prefix behind which a response leaves the tree."""
        return self._path(ids)[-1]

    def _is_open(self, nodes: Sequence[int]) -> NDArray[np.bool_]:
        tried = np.array([self._tried[node] for node in nodes])
        return np.asarray(1.0 - tried > _LEAST_OPEN)

    def _path(self, ids: Sequence[int]) -> list[int]:
        """Return the nodes along a response, the root first, up to where it leaves the tree."""
        nodes = [0]
        for token in ids:
            following = self._children[nodes[-1]].get(token)
            if following is None:
                break
            nodes.append(following)
        return nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How one response begins.

    Args:
        kept: Tokens that it keeps.
        excluded: Tokens that may not come next, having been tried there.
        log_probability: Log-probability, in nats, that a response of the round starts like this.
    """

    kept: Tokens = NO_TOKENS
    excluded: tuple[int, ...] = ()
    log_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """How the responses of a round begin.

    Args:
        explored: The tree of all responses before the round.
        parents: Responses that can be restarted from.
        weights: W_j of the parents, shape (parents,), summing to 1.
        cuts: P(j, c), of shape (length,) for each parent, all together summing to 1.
        exits: P(c) of fresh responses, shape (prefixes,), summing to 1.
        fresh_share: Share of the round that starts fresh, in [0, 1].
    """

    explored: Explored
    parents: tuple[Tokens, ...]
    weights: FloatArray
    cuts: tuple[FloatArray, ...]
    exits: FloatArray
    fresh_share: float

    def draw(self, n: int, rng: np.random.Generator) -> list[Start]:
        """Draw the starts of n responses.

        Systematic resampling decides which of them start fresh, and the parents and cuts of the others.
        """
        exits, cuts = self.exits.cumsum(), np.concatenate(self.cuts).cumsum()
        first = np.cumsum([0, *map(len, self.cuts)])
        heads = []
        for point in (rng.random() + np.arange(n)) / n:
            if point < self.fresh_share:
                heads.append(self.explored.head(_place(exits, rng.random())))
            else:
                place = _place(cuts, (point - self.fresh_share) / (1.0 - self.fresh_share))
                parent = int(np.searchsorted(first, place, side="right")) - 1
                heads.append(self.parents[parent].head(place - first[parent]))
        return [
            Start(
                kept=head,
                excluded=self.explored.tried(head.ids),
                log_probability=self.log_exit_probability(head.ids),
            )
            for head in heads
        ]

    def log_exit_probability(self, prefix: Sequence[int]) -> float:
        """Return the log-probability that a response of the round leaves the tree behind a prefix of it.

        -inf for a prefix that no start keeps, or that is not in the tree.
        """
        cut, ids = len(prefix), tuple(prefix)
        if self.explored.leaves(ids) < cut:
            return -np.inf
        total = 0.0
        for parent, cuts in zip(self.parents, self.cuts, strict=True):
            if cut < len(parent) and parent.ids[:cut] == ids:
                total += (1.0 - self.fresh_share) * float(cuts[cut])
        total += self.fresh_share * float(self.exits[self.explored.exit_prefix(ids)])
        return float(np.log(total)) if total else -np.inf


def restarts_from(
    drawn: Iterable[Tokens],
    usable: Sequence[tuple[Tokens, float]],
    reward_temperature: Callable[[FloatArray], float | None],
) -> tuple[Restarts | None, float | None]:
    """Return what a round restarts from, and lambda; None and None where nothing is left to try.

    Args:
        drawn: All responses before the round.
        usable: Those of them that have a reward, with it.
        reward_temperature: Returns lambda for the parents' rewards, shape (parents,); None where they are tied.
    """
    explored = Explored(drawn)
    places = explored.open_parents([tokens for tokens, _ in usable])
    if not places:
        return None, None
    rewards = np.array([usable[place][1] for place in places])
    temperature = reward_temperature(rewards)
    parents = tuple(usable[place][0] for place in places)
    exit_masses, fresh_share = explored.exit_masses(), 0.0
    if not temperature and len(parents) > 1 and exit_masses.any():
        tied = np.count_nonzero(rewards == rewards.max())
        fresh_share = tied * (tied - 1) / (len(parents) * (len(parents) - 1))
    weights, gains = parent_weights(rewards, temperature), explored.gains(usable)
    masses = [weight * explored.cuts(parent, gains) for parent, weight in zip(parents, weights, strict=True)]
    ends = np.cumsum([len(parent) for parent in parents])
    cuts = tuple(np.split(_distribution(np.concatenate(masses)), ends[:-1]))
    return Restarts(explored, parents, weights, cuts, _distribution(exit_masses * gains), fresh_share), temperature


def parent_weights(rewards: FloatArray, reward_temperature: float | None) -> FloatArray:
    """Return W_j proportional to exp(r_j/lambda), shape (parents,); equal weights without a lambda (all tied)."""
    if reward_temperature is None:
        return np.full(len(rewards), 1.0 / len(rewards))
    return normalise(tilt(rewards, reward_temperature))


def _distribution(masses: FloatArray) -> FloatArray:
    """Return probabilities proportional to masses, or equal ones where all masses are 0."""
    masses = masses if masses.any() else np.ones_like(masses)
    return np.asarray(masses / masses.sum())


def _place(cumulative: FloatArray, point: float) -> int:
    """Return the place at which a point of [0, 1) falls."""
    return int(np.searchsorted(cumulative, point, side="right").clip(max=len(cumulative) - 1))
