"""Every number that a user may set, validated in one place; all ways in (Python, LangChain, shell) build from it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Event
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aisp.bench.rivals import RULES, Best, Selection
from aisp.bench.rivals.blockwise import Blockwise
from aisp.bench.rivals.misvo import MISVO
from aisp.bench.rivals.qalign import QAlign
from aisp.errors import ConfigurationError
from aisp.records import GREEDY, Limits, Sampling
from aisp.search.plan import Plan, make_plan
from aisp.strategies.aisp import AISP, PAPER, PAPER_ROUNDS, PAPER_SAMPLES
from aisp.strategies.base import Strategy
from aisp.strategies.best_of_n import DEFAULT_SAMPLING, BestOfN
from aisp.strategies.tilted_restart.strategy import TiltedRestart

DEFAULT_MAX_TOKENS = 256

StrategyName = Literal[
    "tilted_restart", "aisp", "best_of_n", "soft_best_of_n", "pessimism", "qalign", "blockwise", "misvo"
]

# Strategies by name, and rules that choose among plain samples: each takes the settings of the same names.
_STRATEGIES: dict[str, Callable[[], Any]] = {
    "tilted_restart": TiltedRestart,
    "qalign": QAlign,
    "blockwise": Blockwise,
    "misvo": MISVO,
}

# The settings that belong to some strategies only.
_WEIGHING = {"reward_temperature", "target_ess_fraction"}
_OWN: dict[str, set[str]] = {
    "best_of_n": set(),
    "aisp": {"preset", "scale", "prior_shift", "horizon", *_WEIGHING},
    "tilted_restart": {"parents", "tilt_nats"},
    "soft_best_of_n": _WEIGHING,
    "pessimism": _WEIGHING,
    "qalign": _WEIGHING,
    "blockwise": {"beams", "block_tokens"},
    "misvo": {"step_size", "fisher_penalty"},
}


class SearchSettings(BaseModel):
    """How to search. Unknown names are errors; an explicit number always wins over a preset.

    Attributes:
        strategy: "tilted_restart", "aisp", "best_of_n", or a rival: "soft_best_of_n" and "pessimism" (which draw one of
            the plain samples), "qalign", "blockwise", "misvo". None is "tilted_restart" with rewards ("aisp" where
            `preset="paper"` or greedy draws are asked for, which it is made for), and one plain sample without.
        preset: "paper" takes all of the paper's numbers (arXiv 2510.26219).
        budget: Responses generated and scored, calibration included. 64 by default; 1 without rewards.
        num_samples: Responses a round at most, 16 by default. The rounds of "tilted_restart" are smaller, and more,
            while it knows few responses.
        num_rounds: Rounds. budget = num_samples x num_rounds, of which any two determine the third.
        scale: sigma of the perturbation, in units of pre-logits; "auto" calibrates it on the prompt.
        reward_temperature: lambda (of "pessimism": beta), in the reward's unit; "auto" solves for
            `target_ess_fraction`.
        prior_shift: alpha, in [0, 1].
        target_ess_fraction: Effective share of a round's samples that "auto" aims at, in (0, 1].
        horizon: Leading response tokens that are perturbed; None perturbs all.
        parents: Effective number of responses that "tilted_restart" restarts from.
        tilt_nats: How far "tilted_restart" tilts the model at most, in nats a response; 0 leaves the tilt out.
        beams: Unfinished responses that "blockwise" keeps.
        block_tokens: Tokens that a round of "blockwise" adds; None divides `max_tokens` among the rounds.
        step_size: eta of "misvo", in pre-logits per unit of gradient.
        fisher_penalty: rho of "misvo", in the reward's unit per nat.
        commit_tokens: Search and commit block after block of so many tokens, so that a stream shows each at once. For
            rewards that may score unfinished text. The budget is divided among the blocks that `max_tokens` makes, and
            every response that a block is chosen from counts. None chooses among whole responses.
        kl_budget: Responses along which the steering moved the model by more nats (`Response.kl_to_base`; what
            choosing adds is not counted) are never returned, and "tilted_restart" tilts by half of it at most.
        max_tokens: Response tokens at most.
        temperature: Softmax temperature of the draws. None leaves it to the strategy, 0 is greedy.
        top_p: Nucleus of the softmax draws, in (0, 1].
        top_k: Most probable tokens kept by the softmax draws.
        stop: Strings that end a response.
        seed: Equal seeds give equal answers; None draws a fresh one a request.
        timeout: Seconds for the whole search; None sets no limit.
        on_timeout: "best" returns the best so far, "raise" raises `DeadlineExceededError`.
        target_reward: Stop as soon as the best reward is at least this.
        patience: Stop after this many rounds in a row without a better response.
    """

    model_config = ConfigDict(extra="forbid")

    strategy: StrategyName | None = None
    preset: Literal["paper"] | None = None
    budget: int | None = Field(default=None, ge=1)
    num_samples: int | None = Field(default=None, ge=1)
    num_rounds: int | None = Field(default=None, ge=1)
    scale: float | Literal["auto"] | None = None
    reward_temperature: float | Literal["auto"] | None = None
    prior_shift: float | None = None
    target_ess_fraction: float | None = None
    horizon: int | None = Field(default=None, ge=1)
    parents: float | None = None
    tilt_nats: float | None = None
    beams: int | None = Field(default=None, ge=1)
    block_tokens: int | None = Field(default=None, ge=1)
    step_size: float | None = None
    fisher_penalty: float | None = None
    commit_tokens: int | None = Field(default=None, ge=1)
    kl_budget: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    stop: list[str] | None = None
    seed: int | None = None
    timeout: float | None = Field(default=None, gt=0)
    on_timeout: Literal["best", "raise"] = "best"
    target_reward: float | None = None
    patience: int | None = Field(default=None, ge=1)

    def make_plan(self, *, rewarded: bool) -> Plan:
        """Return the budget and the size of its rounds."""
        given = (self.budget, self.num_samples, self.num_rounds)
        if not rewarded and given == (None, None, None):
            return Plan(budget=1, num_samples=1)
        budget, samples, rounds = given
        if self.preset == "paper" and given.count(None) >= 2:
            if budget is None:
                samples, rounds = samples or PAPER_SAMPLES, rounds or PAPER_ROUNDS
            else:
                samples = min(PAPER_SAMPLES, budget)
        return make_plan(budget, samples, rounds)

    def make_strategy(self, *, rewarded: bool) -> Strategy[Any]:
        """Return the strategy with its numbers: those of the preset, then those that were given."""
        name = self.strategy or self._default_strategy(rewarded)
        own = self._own(name)
        if name == "best_of_n" or name in RULES:
            return BestOfN(sampling=self.make_sampling(DEFAULT_SAMPLING))
        if name == "aisp":
            start = PAPER if own.pop("preset", None) == "paper" else AISP()
            return replace(start, sampling=self.make_sampling(GREEDY), **own)
        if name == "blockwise" and self.commit_tokens is not None:
            raise ConfigurationError(
                "blockwise searches block by block itself, and commits nothing before its end; "
                "leave commit_tokens out, or take another strategy"
            )
        start = _STRATEGIES[name]()
        sampling = self.make_sampling(start.sampling)
        if isinstance(start, TiltedRestart):
            plain = sampling if sampling.truncated else self.make_sampling(start.plain)
            return self._per_block(replace(start, sampling=sampling, plain=plain, **own))
        strategy: Strategy[Any] = replace(start, sampling=sampling, **own)
        return strategy

    def _per_block(self, strategy: TiltedRestart) -> TiltedRestart:
        """Hold the tilt to the budget of nats, and give a block its share of what a response may cost."""
        nats = strategy.tilt_nats if self.kl_budget is None else min(strategy.tilt_nats, self.kl_budget / 2)
        if self.commit_tokens is not None:
            nats *= min(1.0, self.commit_tokens / self._max_tokens)
        return replace(strategy, tilt_nats=nats)

    def make_selection(self) -> Selection:
        """Return which of the responses is returned."""
        name = self.strategy or ""
        return RULES[name](**self._own(name)) if name in RULES else Best()

    def _own(self, name: str) -> dict[str, Any]:
        """Return the given settings of a strategy, refusing those of others."""
        own = self.model_dump(include=set().union(*_OWN.values()), exclude_none=True)
        foreign = sorted(own.keys() - _OWN[name])
        if foreign:
            homes = sorted(home for home, names in _OWN.items() if names & set(foreign))
            raise ConfigurationError(
                f"{name} has no {', '.join(foreign)}; leave it out, or give rewards and strategy={' or '.join(homes)}"
            )
        return own

    def _default_strategy(self, rewarded: bool) -> str:
        if not rewarded:
            return "best_of_n"
        greedy = self.temperature == 0 and self.budget != 1
        return "aisp" if self.preset == "paper" or greedy else "tilted_restart"

    def make_sampling(self, default: Sampling) -> Sampling:
        """Return how a token is taken: the strategy's default, with what was given put over it."""
        temperature = default.temperature if self.temperature is None else self.temperature
        if temperature == 0 and (self.top_p is not None or self.top_k is not None):
            warnings.warn(
                "top_p and top_k have no effect on greedy draws; give a temperature above 0 to sample", stacklevel=3
            )
        return Sampling(temperature=temperature, top_p=1.0 if self.top_p is None else self.top_p, top_k=self.top_k)

    @property
    def _max_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def make_limits(self, stop: Sequence[str] | None = None, cancel: Event | None = None) -> Limits:
        """Return when a response ends; the clock of `timeout` starts now."""
        return Limits(
            max_tokens=self._max_tokens,
            stop=tuple(self.stop or ()) if stop is None else tuple(stop),
            deadline=None if self.timeout is None else time.monotonic() + self.timeout,
            cancel=cancel,
        )


def override(own: SearchSettings, given: Mapping[str, Any]) -> SearchSettings:
    """Return settings with a call's put over them.

    Args:
        own: Settings, or a model that has their fields among others.
        given: What the call was given; names that are no settings are left alone.

    Raises:
        ConfigurationError: A value out of range.
    """
    fields = {name: given.get(name, getattr(own, name)) for name in SearchSettings.model_fields}
    if isinstance(fields["stop"], str):
        fields["stop"] = [fields["stop"]]
    try:
        return SearchSettings(**fields)
    except ValidationError as error:
        raise ConfigurationError(str(error)) from error
