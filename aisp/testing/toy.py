"""A language of two tokens and a few steps whose every response can be listed, and an engine that speaks it.

What a strategy or an estimate should find is a sum over a table here:

    toy = Toy(depth=4)
    engine = ToyEngine(toy)                          draws responses, as proposals ask
    toy.probabilities()                              p(y) of every response
    toy.tilted(reward, temperature=0.5)              p(y) exp(r(y) / lambda), normalised
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, rel_entr

from aisp.engines.base import Engine, Flight
from aisp.engines.proposals import check_offered, check_proposal
from aisp.errors import PromptError
from aisp.models.codec import ChatCodec
from aisp.records import (
    TOKEN_FIGURES,
    Candidate,
    Capability,
    FinishReason,
    FloatArray,
    Limits,
    Measure,
    Prefix,
    Proposal,
    Rollout,
    Sampling,
    Score,
    Tokens,
)
from aisp.testing.flights import PlainEncoder, StepwiseFlight, Writing

Ids = tuple[int, ...]

DIM = 3
"""Size of a pre-logit of the toy language."""

PLAIN = Sampling()
WEIGHT = np.array([[0.9, -0.2, 0.3], [-0.4, 0.5, 0.1]])
"""The LM head, shape (tokens, DIM)."""

_LETTERS = "ab"


@cache
def pre_logit(prefix: Ids) -> FloatArray:
    """Return z behind some response tokens, shape (DIM,): numbers of its own, neither flat nor peaked."""
    return np.random.default_rng([7, len(prefix), *prefix]).normal(size=DIM)


def next_token(
    prefix: Ids, temperature: float = 1.0, shift: NDArray[np.floating[Any]] | float | None = None
) -> FloatArray:
    """Return the probabilities of both tokens behind some, at a temperature and with a shift of shape (DIM,)."""
    logits = WEIGHT @ (pre_logit(prefix) + (0.0 if shift is None else shift)) / temperature
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum())


@cache
def step(
    prefix: Ids, temperature: float, law: float, shift: bytes | None
) -> tuple[float, list[tuple[float, ...]], FloatArray]:
    """Return P(token 1), and for both tokens their figures and score vectors.

    Args:
        prefix: Response tokens before it.
        temperature: Of the draw.
        law: Temperature of `log_prior`.
        shift: A float32 array's bytes.
    """
    own = None if shift is None else np.frombuffer(shift, dtype=np.float32)
    q, p, base = next_token(prefix, temperature, own), next_token(prefix, law), next_token(prefix)
    steered = next_token(prefix, 1.0, own)
    common = (float(rel_entr(steered, base).sum()), 0.0, float(entr(p).sum()))
    with np.errstate(divide="ignore"):  # a strong shift leaves the other token no probability
        figures = [(*row, *common) for row in np.log(np.stack([base, p, q], axis=1)).tolist()]
    return float(q[1]), figures, WEIGHT - q @ WEIGHT


@dataclass(frozen=True)
class Toy:
    """Responses of `depth` tokens; with `ends`, token 1 ends a response before that."""

    depth: int = 4
    ends: bool = False

    def responses(self) -> list[Ids]:
        """Return every response, in order."""
        return list(dict.fromkeys(self.cut(ids) for ids in product((0, 1), repeat=self.depth)))

    def cut(self, ids: Ids) -> Ids:
        """Return tokens up to the first that ends a response."""
        return ids[: ids.index(1) + 1] if self.ends and 1 in ids else ids

    def is_end(self, ids: Ids) -> bool:
        """Return whether tokens are a whole response."""
        return len(ids) == self.depth or (self.ends and ids[-1:] == (1,))

    def probabilities(self, sampling: Sampling = PLAIN, shift: NDArray[np.floating[Any]] | None = None) -> FloatArray:
        """Return p(y) of every response; a shift has shape (positions, DIM)."""
        return np.array([self._probability(ids, sampling.temperature, shift) for ids in self.responses()])

    def tilted(self, reward: Callable[[Ids], float], temperature: float, sampling: Sampling = PLAIN) -> FloatArray:
        """Return p(y) exp(r(y)/lambda), normalised, of every response."""
        rewards = np.array([reward(ids) for ids in self.responses()])
        mass = self.probabilities(sampling) * np.exp((rewards - rewards.max()) / temperature)
        return np.asarray(mass / mass.sum())

    def _probability(self, ids: Ids, temperature: float, shift: NDArray[np.floating[Any]] | None) -> float:
        steps = (
            next_token(ids[:t], temperature, None if shift is None else shift[min(t, len(shift) - 1)])[token]
            for t, token in enumerate(ids)
        )
        return float(np.prod(list(steps)))


def text_of(ids: Sequence[int]) -> str:
    """Return the text of tokens: a for 0, b for 1."""
    return "".join(_LETTERS[token] for token in ids)


def ids_of(text: str) -> Ids:
    """Return the tokens of a text."""
    return tuple(_LETTERS.index(letter) for letter in text)


class ToyTokenizer:
    """The toy language's."""

    is_fast = False
    eos_token_id = None

    def __len__(self) -> int:
        return len(_LETTERS)

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return text_of(ids)


class ToyEngine(Engine):
    """Speaks a toy language, whatever the prompt.

    It honours kept and excluded tokens, temperatures of draws and of their prior, shifts, pauses, bags and score
    vectors.

    Args:
        toy: The language.
    """

    def __init__(self, toy: Toy = Toy()) -> None:
        self.toy = toy
        encoder: Any = PlainEncoder()
        self._codec = ChatCodec(
            name="toy", tokenizer=ToyTokenizer(), eos_token_ids=(), context_length=None, encoder=encoder
        )

    @property
    def codec(self) -> ChatCodec:
        return self._codec

    @property
    def offers(self) -> frozenset[Capability]:
        return frozenset({"exact_log_probs", "deterministic", "kept", "excluded", "shift", "bag", "score_vectors"})

    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        if not token_ids:
            raise PromptError("the prompt has no tokens; give at least one")
        return Prefix(token_ids=tuple(token_ids))

    def start(self, prefix: Prefix | None, proposals: Sequence[Proposal], limits: Limits | None) -> Flight:
        """Begin to draw one response a proposal. The language has one prompt and one length: both may be None."""
        limits = limits or Limits(max_tokens=self.toy.depth)

        def begin(proposal: Proposal) -> Writing:
            check_offered(self, [proposal])
            check_proposal(proposal, limits.max_tokens, len(self.codec.tokenizer), DIM)
            return _ToyWriting(self.toy, proposal, limits)

        flight = StepwiseFlight(begin, limits)
        flight.add(proposals)
        return flight


class _ToyWriting(Writing):
    def __init__(self, toy: Toy, proposal: Proposal, limits: Limits) -> None:
        self._toy, self._proposal, self._limits = toy, proposal, limits
        self._rng = random.Random(proposal.seed)
        self._ids: Ids = tuple(proposal.kept.ids)
        self._steps: list[tuple[Sequence[float], FloatArray]] = []

    def step(self) -> Rollout | None:
        if not self._toy.is_end(self._ids):  # else nothing is left to write behind what was kept
            self._take()
        reason = self._end_reason()
        return None if reason is None else self._rollout(reason)

    def cancel(self) -> Rollout:
        return self._rollout("cancelled")

    def _take(self) -> None:
        proposal, ids = self._proposal, self._ids
        shift = None if proposal.shift is None else proposal.shift[min(len(ids), len(proposal.shift) - 1)].tobytes()
        if proposal.horizon is not None and len(ids) >= proposal.horizon:
            shift = None
        greedy = proposal.sampling.greedy
        temperature, law = (1.0 if one.greedy else one.temperature for one in (proposal.sampling, proposal.law))
        odds, figures, vectors = step(ids, temperature, law, shift)
        excluded = proposal.excluded if not self._steps else ()
        only = 1 - excluded[0] if len(excluded) == 1 else None
        token = int(self._rng.random() < odds) if not greedy else int(odds > 0.5)
        token = token if only is None else only
        own = list(figures[token])
        if only is not None:
            own[TOKEN_FIGURES.index("log_proposal")] = 0.0
        self._steps.append((own, vectors[token]))
        self._ids = (*ids, token)

    def _end_reason(self) -> FinishReason | None:
        if any(stop in text_of(self._ids) for stop in self._limits.stop):
            return "stop"
        if self._toy.is_end(self._ids):
            return "stop" if len(self._ids) < self._toy.depth else "length"
        if len(self._ids) >= self._limits.max_tokens:
            return "length"
        pause_after = self._proposal.pause_after
        return "paused" if pause_after is not None and len(self._steps) >= pause_after else None

    def _rollout(self, reason: FinishReason) -> Rollout:
        proposal, kept = self._proposal, len(self._proposal.kept)
        new = np.array([figures for figures, _ in self._steps]).reshape(-1, len(TOKEN_FIGURES))
        old = np.stack([getattr(proposal.kept, name) for name in TOKEN_FIGURES], 1)
        columns = np.concatenate([old, new]).T
        vectors = np.zeros((len(self._ids), DIM), dtype=np.float32)
        vectors[kept:] = np.array([vector for _, vector in self._steps]).reshape(-1, DIM)
        measured: dict[Measure, Any] = {"bag": WEIGHT[list(self._ids)].sum(0), "score_vectors": vectors}
        text = text_of(self._ids)
        ends = [text.index(stop) for stop in self._limits.stop if stop in text]
        return Rollout(
            tokens=Tokens(ids=self._ids, **dict(zip(TOKEN_FIGURES, columns, strict=True))),
            text=text[: min(ends)] if ends else text,
            finish_reason=reason,
            forward_tokens=len(self._ids) - kept,
            kept_tokens=kept,
            measured={name: value for name, value in measured.items() if name in proposal.measures},
        )


def run_rounds(
    strategy: Any, engine: ToyEngine, context: Any, reward: Callable[[Ids], float], rounds: int
) -> tuple[Any, list[list[Rollout]]]:
    """Go through rounds of `context.num_samples`; return the state, and all rollouts round by round."""
    state, drawn = strategy.init(context), []
    for _ in range(rounds):
        proposals = strategy.propose(state, context.num_samples)
        rollouts = engine.rollout(Prefix(token_ids=(0,)), proposals, Limits(max_tokens=engine.toy.depth))
        scores = [Score(value=reward(rollout.tokens.ids)) for rollout in rollouts]
        state, _ = strategy.update(state, proposals, rollouts, scores)
        drawn.append(rollouts)
    return state, drawn


class ToyReward:
    """A function of the tokens, as a reward of candidates.

    Args:
        function: From token ids to a number.
        partial: Whether it may score a response that isn't complete.
    """

    name = "toy"
    is_async = False

    def __init__(self, function: Callable[[Ids], float], partial: bool = False) -> None:
        self.function = function
        self.partial = partial

    def session(self) -> ToyReward:
        return self

    def leaves(self) -> Iterator[ToyReward]:
        yield self

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(value=self.function(ids_of(candidate.text))) for candidate in candidates]


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two responses begin with that are the same."""
    return next((t for t in range(len(one)) if one[: t + 1] != other[: t + 1]), len(one))
