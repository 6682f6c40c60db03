"""Restarts from what has been drawn: a prefix of a good response is kept, and left for a token that wasn't tried there.

What a token had of the model's probability is known when it is drawn. So is, without a further forward pass, what all
the tokens have that were not tried behind a prefix: 1 less the sum over those that were. A response that leaves the
tree of those before it does so at one place, which makes its probability under a round of restarts a short sum:

    q(y) = q(y_>=c | y_c not tried) . ((1 - a) sum_j P(j, c) + a P(c))     over the parents j that begin with y_<c

P(j, c) is in proportion to what the parent weighs, to how open its token at c was (the share that it has of the
parent's entropy), and to what a response is expected to gain that leaves the tree there (`improvement`).

The share a is drawn anew, much as plain sampling without replacement would: P(c) is in proportion to what the model has
for leaving the tree there, and to the gain again, which among failures is greatest where least was tried: at the first
tokens. It is the share of pairs of parents that are tied for best: the rewards can't tell these apart, and where they
can tell none, all is drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aisp.records import NO_TOKENS, FloatArray, Tokens
from aisp.strategies.tilted_restart.improvement import expected_improvement
from aisp.strategies.weights import normalise, tilt

# Below this share a prefix counts as tried out: roundings of bfloat16 log-probabilities are about as large.
_LEAST_OPEN = 1e-3


class Explored:
    """The prefix tree of responses.

    Args:
        responses: What was drawn. They share the law that `log_prior` is of.
    """

    def __init__(self, responses: Iterable[Tokens]) -> None:
        self._children: list[dict[int, int]] = [{}]  # nodes by token, of each node
        self._tried: list[float] = [0.0]  # what they have of the model's probability
        self._reach: list[float] = [1.0]  # what the model has for coming here
        self._heads: list[tuple[Tokens, int]] = [(NO_TOKENS, 0)]  # a response that does, and after how many tokens
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
        """Return after how many tokens a response leaves the tree; its length where it doesn't."""
        return len(self._path(ids)) - 1

    def tried(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens that were tried behind a prefix of the tree."""
        return tuple(self._children[self._path(ids)[-1]])

    def is_open(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """Return before which tokens of a response of the tree there is something left to try, shape (length,)."""
        return self._is_open(self._path(ids)[:-1])

    def open_parents(self, responses: Sequence[Tokens]) -> list[int]:
        """Return which responses of the tree there is something to try behind, each of equal ones once."""
        first = {response.ids: place for place, response in reversed(list(enumerate(responses)))}
        return sorted(place for ids, place in first.items() if self.is_open(ids).any())

    def departures(self) -> FloatArray:
        """Return what the model has for leaving the tree behind each of its prefixes, shape (prefixes,)."""
        left = 1.0 - np.array(self._tried)
        masses = np.where(left > _LEAST_OPEN, self._reach * left, 0.0)
        masses[list(self._ends)] = 0.0
        return masses

    def gains(self, rewards: Sequence[tuple[Tokens, float]]) -> FloatArray:
        """Return the improvement that is expected behind each of the prefixes, shape (prefixes,).

        Args:
            rewards: Responses of the tree with their reward, at least one.
        """
        ends = [self._path(tokens.ids)[-1] for tokens, _ in rewards]
        depths = [length for _, length in self._heads]
        return expected_improvement(self._parents, depths, ends, [reward for _, reward in rewards])

    def cuts(self, response: Tokens, gains: FloatArray) -> FloatArray:
        """Return what a cut before each token of a response is in proportion to, shape (length,).

        Its share of the entropy of the places that are open, times the gain there.
        """
        places = self._path(response.ids)[:-1]
        masses = np.where(self._is_open(places), response.entropy, 0.0)
        return np.asarray(masses / (masses.sum() or 1.0) * gains[places])

    def head(self, prefix: int) -> Tokens:
        """Return one of the prefixes."""
        response, length = self._heads[prefix]
        return response.head(length)

    def departed(self, ids: Sequence[int]) -> int:
        """Return which of the prefixes a response leaves the tree behind."""
        return self._path(ids)[-1]

    def _is_open(self, nodes: Sequence[int]) -> NDArray[np.bool_]:
        tried = np.array([self._tried[node] for node in nodes])
        return np.asarray(1.0 - tried > _LEAST_OPEN)

    def _path(self, ids: Sequence[int]) -> list[int]:
        """Return the nodes that a response goes through, the root first, as far as there are any."""
        nodes = [0]
        for token in ids:
            following = self._children[nodes[-1]].get(token)
            if following is None:
                break
            nodes.append(following)
        return nodes


@dataclass(frozen=True, slots=True)
class Restarts:
    """What the responses of a round begin with.

    Args:
        explored: All that was drawn before.
        parents: Responses of it that are open.
        weights: W_j of the parents, shape (parents,), summing to 1.
        cuts: P(j, c), of shape (length,) for each parent, all together summing to 1.
        departures: P(c) of responses that are drawn anew, shape (prefixes,), summing to 1.
        anew: Their share, in [0, 1].
    """

    explored: Explored
    parents: tuple[Tokens, ...]
    weights: FloatArray
    cuts: tuple[FloatArray, ...]
    departures: FloatArray
    anew: float

    def draw(self, n: int, rng: np.random.Generator) -> list[tuple[Tokens, tuple[int, ...]]]:
        """Return what each of n responses keeps, and the tokens that may not come next.

        Whether anew and from which parent and cut is drawn by systematic resampling.
        """
        departures, cuts = self.departures.cumsum(), np.concatenate(self.cuts).cumsum()
        first = np.cumsum([0, *map(len, self.cuts)])
        heads = []
        for point in (rng.random() + np.arange(n)) / n:
            if point < self.anew:
                heads.append(self.explored.head(_place(departures, rng.random())))
            else:
                place = _place(cuts, (point - self.anew) / (1.0 - self.anew))
                parent = int(np.searchsorted(first, place, side="right")) - 1
                heads.append(self.parents[parent].head(place - first[parent]))
        return [(head, self.explored.tried(head.ids)) for head in heads]

    def log_departure(self, response: Tokens) -> float:
        """Return the logarithm of how probable it is to leave the tree where a response does; -inf where it doesn't."""
        cut = self.explored.leaves(response.ids)
        if cut == len(response):
            return -np.inf
        total = 0.0
        for parent, cuts in zip(self.parents, self.cuts, strict=True):
            if cut < len(parent) and parent.ids[:cut] == response.ids[:cut]:
                total += (1.0 - self.anew) * float(cuts[cut])
        total += self.anew * float(self.departures[self.explored.departed(response.ids)])
        return float(np.log(total)) if total else -np.inf


def restarts_from(
    drawn: Iterable[Tokens],
    usable: Sequence[tuple[Tokens, float]],
    reward_temperature: Callable[[FloatArray], float | None],
) -> tuple[Restarts | None, float | None]:
    """Return what a round restarts from, and lambda: None and None where nothing is left to try.

    Args:
        drawn: All responses before the round.
        usable: Those of them that have a reward, with it.
        reward_temperature: Tells lambda from the parents' rewards, shape (parents,); None where they are tied.
    """
    explored = Explored(drawn)
    places = explored.open_parents([tokens for tokens, _ in usable])
    if not places:
        return None, None
    rewards = np.array([usable[place][1] for place in places])
    temperature = reward_temperature(rewards)
    parents = tuple(usable[place][0] for place in places)
    departures, anew = explored.departures(), 0.0
    if not temperature and len(parents) > 1 and departures.any():
        tied = np.count_nonzero(rewards == rewards.max())
        anew = tied * (tied - 1) / (len(parents) * (len(parents) - 1))
    weights, gains = parent_weights(rewards, temperature), explored.gains(usable)
    masses = [weight * explored.cuts(parent, gains) for parent, weight in zip(parents, weights, strict=True)]
    ends = np.cumsum([len(parent) for parent in parents])
    cuts = tuple(np.split(_distribution(np.concatenate(masses)), ends[:-1]))
    return Restarts(explored, parents, weights, cuts, _distribution(departures * gains), anew), temperature


def parent_weights(rewards: FloatArray, reward_temperature: float | None) -> FloatArray:
    """Return W_j proportional to exp(r_j/lambda), shape (parents,); equal where there is no lambda, all being tied."""
    if reward_temperature is None:
        return np.full(len(rewards), 1.0 / len(rewards))
    return normalise(tilt(rewards, reward_temperature))


def _distribution(masses: FloatArray) -> FloatArray:
    """Return probabilities in proportion to masses, or equal ones where all are 0."""
    masses = masses if masses.any() else np.ones_like(masses)
    return np.asarray(masses / masses.sum())


def _place(cumulative: FloatArray, point: float) -> int:
    """Return where a point of [0, 1) falls."""
    return int(np.searchsorted(cumulative, point, side="right").clip(max=len(cumulative) - 1))
