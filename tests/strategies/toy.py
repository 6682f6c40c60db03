"""A language of two tokens and a few steps whose every response can be listed, and an engine that speaks it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from aisp.records import CAPABILITIES, TOKEN_FIGURES, Candidate, Prefix, Rollout, Sampling, Score, Tokens

DIM = 3
PLAIN = Sampling()
WEIGHT = np.array([[0.9, -0.2, 0.3], [-0.4, 0.5, 0.1]])  # the LM head, (tokens, dim)


@cache
def pre_logit(prefix):
    """z behind a prefix: numbers of its own, neither flat nor peaked."""
    return np.random.default_rng([7, len(prefix), *prefix]).normal(size=DIM)


def next_token(prefix, temperature=1.0, shift=None):
    logits = WEIGHT @ (pre_logit(prefix) + (0.0 if shift is None else shift)) / temperature
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


@cache
def step(prefix, temperature, law, shift):
    """Return P(token 1), and for both tokens their figures and score vectors; the shift is a float32's bytes.

    `temperature` is that of the draw, `law` that of `log_prior`.
    """
    own = None if shift is None else np.frombuffer(shift, dtype=np.float32)
    q, p, base = next_token(prefix, temperature, own), next_token(prefix, law), next_token(prefix)
    steered = next_token(prefix, 1.0, own)
    common = (float(steered @ np.log(steered / base)), 0.0, float(-p @ np.log(p)))
    figures = [(np.log(base[token]), np.log(p[token]), np.log(q[token]), *common) for token in (0, 1)]
    return float(q[1]), figures, WEIGHT - q @ WEIGHT


@dataclass(frozen=True)
class Toy:
    """Responses of `depth` tokens; with `ends`, token 1 ends a response before that."""

    depth: int = 4
    ends: bool = False

    def responses(self):
        """Every response, in order."""
        found = {self.cut(ids): None for ids in product((0, 1), repeat=self.depth)}
        return list(found)

    def cut(self, ids):
        return ids[: ids.index(1) + 1] if self.ends and 1 in ids else ids

    def is_end(self, ids):
        return len(ids) == self.depth or (self.ends and ids[-1:] == (1,))

    def probabilities(self, sampling=PLAIN, shift=None):
        """Return p(y) of every response, the shift being an array (positions, DIM)."""
        return np.array([self._probability(ids, sampling.temperature, shift) for ids in self.responses()])

    def tilted(self, reward: Callable[[tuple[int, ...]], float], temperature, sampling=PLAIN):
        """Return p(y) exp(r(y)/lambda), normalised, of every response."""
        rewards = np.array([reward(ids) for ids in self.responses()])
        mass = self.probabilities(sampling) * np.exp((rewards - rewards.max()) / temperature)
        return mass / mass.sum()

    def _probability(self, ids, temperature, shift):
        steps = (
            next_token(ids[:t], temperature, None if shift is None else shift[min(t, len(shift) - 1)])[token]
            for t, token in enumerate(ids)
        )
        return float(np.prod(list(steps)))


def text_of(ids):
    return "".join("ab"[token] for token in ids)


def ids_of(text):
    return tuple("ab".index(letter) for letter in text)


class ToyEngine:
    """Speaks a toy language.

    It honours kept and excluded tokens, temperatures of draws and of their prior, shifts, pauses and score vectors.
    """

    context_length = None
    offers = CAPABILITIES
    codec = None

    def __init__(self, toy=Toy()):
        self.toy = toy

    def prefill(self, token_ids):
        return Prefix(token_ids=tuple(token_ids))

    def rollout(self, prefix, proposals, limits, progress=None):
        return [self._write(proposal) for proposal in proposals]

    def _write(self, proposal):
        rng = random.Random(proposal.seed)
        ids = tuple(proposal.kept.ids)
        kept = len(ids)
        steps = []
        while not self.toy.is_end(ids) and not self._pauses(proposal, ids):
            shift = None if proposal.shift is None else proposal.shift[min(len(ids), len(proposal.shift) - 1)].tobytes()
            odds, figures, vectors = step(ids, proposal.sampling.temperature, proposal.law.temperature, shift)
            excluded = proposal.excluded if len(ids) == kept else ()
            token = 1 - excluded[0] if len(excluded) == 1 else int(rng.random() < odds)
            own = list(figures[token])
            if len(excluded) == 1:
                own[TOKEN_FIGURES.index("log_proposal")] = 0.0
            steps.append((own, vectors[token]))
            ids = (*ids, token)
        new = np.array([figures for figures, _ in steps]).reshape(-1, len(TOKEN_FIGURES))
        old = np.stack([getattr(proposal.kept, name) for name in TOKEN_FIGURES], 1)
        columns = np.concatenate([old, new]).T
        vectors = np.zeros((len(ids), DIM), dtype=np.float32)
        vectors[kept:] = np.array([vector for _, vector in steps]).reshape(-1, DIM)
        return Rollout(
            tokens=Tokens(ids=ids, **dict(zip(TOKEN_FIGURES, columns, strict=True))),
            text=text_of(ids),
            finish_reason=("stop" if len(ids) < self.toy.depth else "length") if self.toy.is_end(ids) else "paused",
            forward_tokens=len(ids) - kept,
            kept_tokens=kept,
            measured={
                name: value
                for name, value in (("bag", WEIGHT[list(ids)].sum(0)), ("score_vectors", vectors))
                if name in proposal.measures
            },
        )

    def _pauses(self, proposal, ids):
        return proposal.pause_after is not None and len(ids) - len(proposal.kept) >= proposal.pause_after


def run_rounds(strategy, engine, context, reward, rounds):
    """Go through rounds of `context.num_samples`; return the state, and all rollouts round by round."""
    state, drawn = strategy.init(context), []
    for _ in range(rounds):
        proposals = strategy.propose(state, context.num_samples)
        rollouts = engine.rollout(None, proposals, None)
        scores = [Score(value=reward(rollout.tokens.ids)) for rollout in rollouts]
        state, _ = strategy.update(state, proposals, rollouts, scores)
        drawn.append(rollouts)
    return state, drawn


class ToyReward:
    """A function of the tokens, as a reward of candidates."""

    name = "toy"

    def __init__(self, function, partial=False):
        self.function = function
        self.partial = partial

    def session(self):
        return self

    def score(self, candidates: list[Candidate]):
        return [Score(value=self.function(ids_of(candidate.text))) for candidate in candidates]


def alike(one, other):
    """Return how many tokens two responses begin with that are the same."""
    return next((t for t in range(len(one)) if one[: t + 1] != other[: t + 1]), len(one))
