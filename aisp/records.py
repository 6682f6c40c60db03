"""The data that passes between the engine, the strategies, the rewards and the loop. Nothing here computes.

    Prefix --(Proposal)--> Rollout --> Candidate --(Reward)--> Score

Per-token figures are in nats, float64, one per response token, the end-of-sequence token included.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aisp.errors import ConfigurationError

FloatArray = NDArray[np.float64]
FinishReason = Literal["stop", "length", "paused", "cancelled"]
Measure = Literal["natural_scale", "unused_mean_dot", "bag", "score_vectors"]
"""What a proposal may ask to be measured of its response, beside the figures of its tokens; see `Rollout.measured`."""
Capability = Literal[
    "exact_log_probs",  # figures of tokens over the whole vocabulary, not estimated from a server's best few
    "deterministic",  # equal seeds give equal tokens in float32
    "kept",  # `Proposal.kept` and `pause_after`
    "excluded",
    "shift",
    "noise",  # `Proposal.scale` and `mean`
    "grammar",
    "natural_scale",
    "unused_mean_dot",
    "bag",
    "score_vectors",
    "next_token_log_probs",  # `Engine.log_probs`
]
"""What an engine may offer, and a strategy, a grammar or a judge may need."""
CAPABILITIES: frozenset[Capability] = frozenset(get_args(Capability))
Message = Mapping[str, Any]
"""An OpenAI-style message: `role`, `content`, and where they apply `name`, `tool_calls`, `tool_call_id`."""


LEAST_TEMPERATURE = 1e-20
"""The least temperature of a softmax draw, which takes the argmax but for ties; less is 0, and has to be said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is taken from the (perturbed) logits.

    Args:
        temperature: Softmax temperature. 0 takes the argmax; infinity would be uniform. Below `LEAST_TEMPERATURE` the
            logits over it would leave float32.
        top_p: Keeps the smallest set of tokens whose probability reaches this share, in (0, 1]. 1 keeps all.
        top_k: Keeps this many most probable tokens; None keeps all.

    Raises:
        ConfigurationError: A value outside these ranges.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigurationError(f"temperature is {self.temperature}; expected a finite number >= 0 (0 is greedy)")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ConfigurationError(
                f"temperature is {self.temperature}; expected 0 (greedy) or a number from {LEAST_TEMPERATURE:g} on"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p is {self.top_p}; expected a number in (0, 1] (1 keeps every token)")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigurationError(f"top_k is {self.top_k}; expected an integer >= 1, or None to keep every token")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are left out."""
        return self.top_p < 1 or self.top_k is not None


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTerm:
    """One term of a proposal's mean: the standard normal noise of `seed`, weighted by position.

    Args:
        seed: Seed of a noise stream (`aisp.noise.gaussians`).
        spans: `((stop, weight), ...)` with rising stops: the weight at response position t is that of the
            first span with t < stop, and 0 past the last. In units of pre-logits.
    """

    seed: int
    spans: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """A run of response tokens with their per-token figures, each of shape (length,) and in nats.

    Args:
        ids: Token ids.
        log_prob: Under the base model at temperature 1, untruncated.
        log_prior: Under the base model at the temperature and truncation of the proposal's `prior`: the p of importance
            weights. Greedy draws have none of their own; theirs is at temperature 1.
        log_proposal: Under the distribution that the token was drawn from, where it is tractable
            (softmax draws at scale 0), else NaN.
        kl_to_base: KL(softmax(W(z_t + u_t)) || softmax(W z_t)) at each position; 0 where there is no mean.
        mean_dot: u_t . v_t, the inner product of the mean with the perturbation (pre-logits squared, no nats).
        entropy: Of the distribution whose log-probabilities are `log_prior`: how open the choice was.
    """

    ids: tuple[int, ...]
    log_prob: FloatArray
    log_prior: FloatArray
    log_proposal: FloatArray
    kl_to_base: FloatArray
    mean_dot: FloatArray
    entropy: FloatArray

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, length: int) -> Tokens:
        """Return the first `length` tokens, to be kept by a proposal."""
        figures = {name: getattr(self, name)[:length] for name in TOKEN_FIGURES}
        return Tokens(ids=self.ids[:length], **figures)

    def followed_by(self, more: Tokens) -> Tokens:
        """Return these tokens with more behind them."""
        figures = {name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in TOKEN_FIGURES}
        return Tokens(ids=self.ids + more.ids, **figures)


TOKEN_FIGURES = ("log_prob", "log_prior", "log_proposal", "kl_to_base", "mean_dot", "entropy")
NO_TOKENS = Tokens(ids=(), **{name: np.zeros(0) for name in TOKEN_FIGURES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one response is drawn from: data, never a callable, and small on the wire.

    At response position t >= len(kept) the engine takes a token from W(z_t + v_t) with v_t = u_t + scale * eps_t,
    for t < horizon, and from W z_t after it.

    Args:
        seed: Seed of the row's Gaussians and of its token draws (two separate streams).
        sampling: How the token is taken.
        prior: Of what law `log_prior` and `entropy` are; None for that of `sampling`. Greedy draws know nothing of it.
        scale: Standard deviation sigma of the perturbation, in units of pre-logits.
        mean: The terms of u_t; empty for zero.
        shift: Added to u_t as it is: float32 of shape (positions, dim), whose last row holds from there on, so that
            one row holds everywhere. None for zero.
        horizon: Leading response tokens that are perturbed; None perturbs all.
        kept: Leading tokens of an earlier response of the same prompt that are taken over as they are.
        excluded: Tokens that the first one drawn is none of, unless no other is possible. They count as impossible in
            `log_proposal`, though not in `log_prior`. Greedy draws know nothing of them.
        pause_after: New tokens after which the response is handed back unfinished, as "paused", for a later proposal
            to keep and go on with; None to write it to its end.
        grammar: What the response is held to, as `aisp.engines.grammar` reads it; None for nothing. Tokens that it
            forbids count as impossible in `log_prior` and `log_proposal`, though not in `log_prob`.
        measures: What is to be in `Rollout.measured`. "score_vectors" doubles what the LM head costs.
        log_start: Log-probability, in nats, with which the strategy lets a response leave `kept` and go on from it; 0
            for one that is written from its beginning. An estimate needs it, an engine doesn't read it. None where the
            strategy doesn't know it.
        predicted_nats: KL divergence that the strategy predicts its shift to cost, in nats a token, before it corrects
            that by what shifts have cost so far; 0 without a shift. An engine doesn't read it.
        retain: Say that later proposals may keep tokens of this response, so that its keys and values are worth their
            memory.
    """

    seed: int
    sampling: Sampling = GREEDY
    prior: Sampling | None = None
    scale: float = 0.0
    mean: tuple[NoiseTerm, ...] = ()
    shift: NDArray[np.float32] | None = None
    horizon: int | None = None
    kept: Tokens = NO_TOKENS
    excluded: tuple[int, ...] = ()
    pause_after: int | None = None
    grammar: str | None = None
    measures: frozenset[Measure] = frozenset()
    log_start: float | None = None
    predicted_nats: float = 0.0
    retain: bool = False

    @property
    def law(self) -> Sampling:
        """What `log_prior` and `entropy` are of."""
        return self.sampling if self.prior is None else self.prior

    @property
    def steered(self) -> bool:
        """Whether any pre-logit is perturbed."""
        return bool(self.scale or self.mean) or self.shift is not None

    def is_plain(self, sampling: Sampling) -> bool:
        """Return whether the response is a sample of the base model, taken like this, and nothing else."""
        changed = self.steered or self.kept.ids or self.excluded or self.grammar or self.pause_after is not None
        return self.sampling == sampling and not changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One response as the engine generated it.

    Args:
        tokens: Every token of the response, kept ones first, the end-of-sequence token (if any) last.
        text: The response's text, without special tokens, cut before a stop string.
        finish_reason: "stop" (end of sequence or stop string), "length", "paused" (as the proposal asked), or
            "cancelled" (also by the deadline).
        forward_tokens: Tokens that the model's body was run over for this row, the prompt's not counted.
        kept_tokens: Leading tokens that the proposal kept; what comes after them was drawn.
        measured: What the proposal's `measures` asked for, by name.
            "natural_scale": The sigma, a float, at which a greedy draw leaves the argmax as often as a softmax draw at
            temperature 1 does, averaged over the response's positions.
            "unused_mean_dot": sum of u_t . v_t, a float, over the positions from the response's end to the horizon.
            "bag": sum_t W[y_t], float64 of shape (dim,): the tokens' rows of the LM head, which is all that a reward
            sees that is linear in pre-logit space.
            "score_vectors": W[y_t] - E_q[W] at each position, float32 of shape (length, dim), q being what the token
            was drawn from (for a greedy draw, at temperature 1): the temperature times the gradient of its
            log-probability by u_t. 0 for kept tokens.
    """

    tokens: Tokens
    text: str
    finish_reason: FinishReason
    forward_tokens: int
    kept_tokens: int = 0
    measured: Mapping[Measure, Any] = field(default_factory=dict)

    @property
    def paused(self) -> bool:
        """Whether the response is to be gone on with."""
        return self.finish_reason == "paused"


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A prefilled prompt. Engines subclass it to hold what they need (keys and values, the last pre-logit)."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a rollout ends.

    Args:
        max_tokens: Response tokens at most, kept ones included.
        stop: Strings that end a response; they are not part of it.
        deadline: `time.monotonic()` seconds at which every row is ended as "cancelled"; None for never.
        cancel: An event that does the same once it is set.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigurationError(f"max_tokens is {self.max_tokens}; expected an integer >= 1")
        if "" in self.stop:
            raise ConfigurationError("stop holds an empty string, which would end every response at once; leave it out")

    def with_max_tokens(self, max_tokens: int) -> Limits:
        return replace(self, max_tokens=max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A response as a reward sees it.

    Args:
        messages: The prompt's messages, OpenAI-style.
        text: The response's text, without its reasoning.
        reasoning: The model's reasoning, where it has one and it was parsed apart.
        tool_calls: `{"name", "args", "id"}` each.
        structure: The parsed structured output, where a response format was asked for.
        reference: What the caller gave as `reference_outputs`.
    """

    messages: Sequence[Message]
    text: str
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    invalid_tool_calls: tuple[Mapping[str, Any], ...] = ()
    structure: Any = None
    reference: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward's verdict on one candidate.

    Args:
        value: Higher is better; finite, except where `error` is set (NaN).
        parts: Named parts that made up the value.
        comment: What a judge said.
        vetoed: Never returned, weight 0, outside every mean.
        error: Why the candidate could not be scored (`on_error="exclude"`); it is treated as vetoed is.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    comment: str | None = None
    vetoed: bool = False
    error: str | None = None

    @property
    def usable(self) -> bool:
        return not self.vetoed and self.error is None

    def with_value(self, value: float) -> Score:
        return replace(self, value=value)
