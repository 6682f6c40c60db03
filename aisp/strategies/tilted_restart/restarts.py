"""Restarts: keep a prefix of a good response, and leave it for a token that was not tried there.

The probability of every token is known once it is drawn. So is, at no cost, the probability of all tokens that were
not tried behind a prefix: 1 less the sum over those that were. A restart leaves the tree of earlier responses at
exactly one place, so its probability is a short sum over the parents j that begin with y_<c:

    q(y) = q(y_>=c | y_c not tried) . ((1 - a) sum_j P(j, c) + a P(c))

P(j, c) is proportional to three factors: the parent's weight, how open its token at c was (its share of the parent's
entropy), and the improvement expected of a response that leaves the tree there (`improvement`).

The share a starts fresh, much as plain sampling without replacement would. P(c) is proportional to the model's
probability of leaving the tree there, and again to the expected improvement; among failures that is greatest where
least was tried, at the first tokens. The share a is the greater of two:

- the fraction of pairs of parents that tie for best: rewards can't tell these apart, and where they can tell none
  apart, everything starts fresh;
- the model's probability of what was tried. Where that is much, as in a tool call, few tokens decide, a restart can
  only repeat them, and what is left of the model's own responses is drawn instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aisp.records import NO_TOKENS, FloatArray, Tokens
from aisp.strategies.tilted_restart.tree import Explored
from aisp.strategies.weights import normalise, tilt


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How one response begins.

    Args:
        kept: Tokens that it keeps.
        excluded: Tokens that may not come next, having been tried there.
        log_probability: Log-probability, in nats, that a response starts like this.
    """

    kept: Tokens = NO_TOKENS
    excluded: tuple[int, ...] = ()
    log_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """How the next responses begin.

    Args:
        explored: The tree of all responses that are known.
        parents: Responses that can be restarted from.
        weights: W_j of the parents, shape (parents,), summing to 1.
        cuts: P(j, c), of shape (length,) for each parent, all together summing to 1.
        exits: P(c) of fresh responses, shape (prefixes,), summing to 1.
        fresh_share: Share of them that starts fresh, in [0, 1].
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
        """Return the log-probability that a response leaves the tree behind a prefix of it.

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
    explored: Explored,
    usable: Sequence[tuple[Tokens, float]],
    reward_temperature: Callable[[FloatArray], float | None],
) -> tuple[Restarts | None, float | None]:
    """Return what responses restart from, and lambda; None and None where nothing is left to try.

    Args:
        explored: The tree of all responses that are known.
        usable: Those of them that have a reward, with it.
        reward_temperature: Returns lambda for the parents' rewards, shape (parents,); None where they are tied.
    """
    places = explored.open_parents([tokens for tokens, _ in usable])
    if not places:
        return None, None
    rewards = np.array([usable[place][1] for place in places])
    temperature = reward_temperature(rewards)
    parents = tuple(usable[place][0] for place in places)
    exit_masses, fresh_share = explored.exit_masses(), 0.0
    if exit_masses.any():
        tied = np.count_nonzero(rewards == rewards.max()) if not temperature else 0
        pairs = len(parents) * (len(parents) - 1)
        fresh_share = max(tied * (tied - 1) / pairs if pairs else 0.0, 1.0 - float(exit_masses.sum()))
    weights, gains = parent_weights(rewards, temperature), explored.gains(usable)
    lengths = [len(parent) for parent in parents]
    masses = _distribution(np.repeat(weights, lengths) * explored.cuts(parents, gains))
    cuts = tuple(masses[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True))
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
