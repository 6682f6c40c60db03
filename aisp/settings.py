"""Settings that every search has, validated in one place. A strategy's own options go to the strategy.

Python, LangChain, LlamaIndex and the shell all build a search from `SearchSettings`.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from threading import Event
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from aisp.engines.base import DEFAULT_WIDTH
from aisp.errors import ConfigurationError
from aisp.invalid import explain_invalid, explain_unknown
from aisp.records import Limits, Sampling
from aisp.search.gain import DEFAULT_PRICE
from aisp.search.plan import Plan, make_plan
from aisp.search.stopping import Stops
from aisp.strategies.aisp import AISP, PAPER, PAPER_ROUNDS, PAPER_SAMPLES
from aisp.strategies.base import Strategy
from aisp.strategies.registry import build_strategy, describe_strategy, find_strategy

DEFAULT_MAX_TOKENS = 256

# Fields that take a number: pydantic by itself takes True as 1.
_NUMBERS = (
    *("budget", "num_samples", "num_rounds", "commit_tokens", "max_tokens", "seed", "patience"),
    *("kl_budget", "temperature", "top_p", "top_k", "timeout", "target_reward", "response_price"),
)


class SearchFields(BaseModel):
    """The settings of a search, as fields that front doors share.

    Unknown names are errors; an explicit number always wins over a preset.

    Attributes:
        strategy: A name ("tilted_restart", "aisp", "best_of_n", or one that an installed package registers in the
            entry-point group "aisp.strategies", as the rivals in `aisp.bench.rivals` are), a class as "module:Class",
            or an object. None is "tilted_restart" with rewards ("aisp" where `preset="paper"` or greedy draws are asked
            for, which it is made for), and one plain sample without.
        strategy_options: Options of the strategy that `strategy` names, as `{"parents": 3}`. An object has its own.
        preset: "paper" takes all of the paper's numbers (arXiv 2510.26219), for strategy "aisp".
        budget: Responses generated and scored, calibration included. 64 by default; 1 without rewards. "auto" draws as
            many at most, and ends the search as soon as a further one is not expected to gain its `response_price`.
        num_samples: Responses in the making at once; by default 16, or 64 on CUDA, and a quarter of a smaller budget.
            A strategy that goes by rounds draws as many a round.
        num_rounds: Rounds. budget = num_samples x num_rounds, of which any two determine the third.
        guard: "typical" refuses what does not read like the model's own text: what repeats itself more than its plain
            samples do, or holds a passage that is more surprising than any of theirs. None returns whatever scores.
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
        response_price: What a response has to gain, in standard deviations of the reward over plain samples: none is
            begun that is not expected to, once 16 have ended (of each block, with `commit_tokens`). 0 spends the
            budget. 0.01 by default with `budget="auto"`, and 0 with a number.

    Raises:
        ValidationError: An unknown name, a value out of range, or a strategy or an option that does not exist.
    """

    model_config = ConfigDict(extra="forbid")

    strategy: Any = None
    strategy_options: dict[str, Any] | None = None
    preset: Literal["paper"] | None = None
    budget: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    num_samples: int | None = Field(default=None, ge=1)
    num_rounds: int | None = Field(default=None, ge=1)
    guard: Literal["typical"] | None = "typical"
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
    response_price: float | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _explain_unknown_names(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and cls.model_config.get("extra") == "forbid":
            known = {name for field in cls.model_fields.items() for name in (field[0], field[1].alias) if name}
            unknown = {str(name): value for name, value in given.items() if name not in known}
            if unknown:
                raise ConfigurationError(explain_unknown(unknown, known))
        return given

    @field_validator(*_NUMBERS, mode="before")
    @classmethod
    def _refuse_bools(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            raise ConfigurationError(f"{info.field_name} is {value}; expected a number")
        return value

    @field_validator("guard", mode="before")
    @classmethod
    def _read_none(cls, value: Any) -> Any:
        return None if value == "none" else value  # as a command line has to say it

    @field_validator("stop", mode="before")
    @classmethod
    def _list_stop(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_serializer("strategy")
    def _describe_strategy(self, strategy: Any) -> Any:
        return describe_strategy(strategy)


class SearchSettings(SearchFields):
    """How to search: the fields of `SearchFields`, and what a search is made of by them."""

    @model_validator(mode="after")
    def _find_strategy(self) -> SearchSettings:
        if self.strategy is not None:
            if isinstance(self.strategy, Mapping):
                self.strategy, self.strategy_options = build_strategy(self.strategy, self.strategy_options), None
            self._base_strategy(rewarded=True)
            describe_strategy(self.strategy)
        return self

    def make_plan(self, *, rewarded: bool, width: int = DEFAULT_WIDTH) -> Plan:
        """Return the budget, and how much of it is in the making at once: `width`, unless something is set."""
        given = (None if self.budget == "auto" else self.budget, self.num_samples, self.num_rounds)
        if not rewarded and given == (None, None, None):
            return Plan(budget=1, num_samples=1)
        budget, samples, rounds = given
        if self.preset == "paper" and given.count(None) >= 2:
            if budget is None:
                samples, rounds = samples or PAPER_SAMPLES, rounds or PAPER_ROUNDS
            else:
                samples = min(PAPER_SAMPLES, budget)
        return make_plan(budget, samples, rounds, width)

    def make_stops(self) -> Stops:
        """Return what ends the search before its budget does."""
        price = DEFAULT_PRICE if self.response_price is None and self.budget == "auto" else self.response_price
        return Stops(
            target_reward=self.target_reward,
            patience=self.patience,
            response_price=price,
            on_timeout=self.on_timeout,
        )

    def make_strategy(self, *, rewarded: bool) -> Strategy[Any]:
        """Return the strategy: the preset's numbers, its own options over these, and the request's sampling.

        Raises:
            ConfigurationError: Options of another strategy, or a temperature for one that takes none.
        """
        strategy = self._base_strategy(rewarded=rewarded)
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return strategy
        names: set[str] = {field.name for field in fields(strategy)} if is_dataclass(strategy) else set()
        if "sampling" not in names:
            raise ConfigurationError(
                f"{', '.join(given)} can't be put over the draws of {strategy.name}, which has no field `sampling`; "
                f"leave {', '.join(given)} out, or give the strategy (a dataclass) a field sampling: Sampling"
            )
        changes = {"sampling": self.make_sampling(strategy.sampling)}  # type: ignore[attr-defined]
        if "plain" in names:
            truncated = changes["sampling"].truncated  # then both draw by one law
            changes["plain"] = changes["sampling"] if truncated else self.make_sampling(strategy.plain)  # type: ignore[attr-defined]
        return replace(strategy, **changes)  # type: ignore[type-var]

    def _base_strategy(self, *, rewarded: bool) -> Strategy[Any]:
        """Return the strategy with its own options, before the request's sampling is put over it."""
        strategy, options = self.strategy, self.strategy_options or {}
        if strategy is None:
            strategy = self._default_strategy(rewarded)
        try:
            if self.preset is None:
                return build_strategy(strategy, options)
            if not isinstance(strategy, str) or find_strategy(strategy) is not AISP:
                name = strategy if isinstance(strategy, str) else strategy.name
                raise ConfigurationError(
                    f"{name} has no preset {self.preset!r}; leave preset out, or take the strategy that it is for: "
                    "strategy='aisp'"
                )
            own = {field.name: getattr(PAPER, field.name) for field in fields(PAPER)}
            return build_strategy(strategy, {**own, **options})
        except ConfigurationError as error:
            if self.strategy is None and not rewarded:
                raise ConfigurationError(f"without rewards one plain sample is drawn; give rewards: {error}") from error
            raise

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
        return Sampling(
            temperature=temperature,
            top_p=default.top_p if self.top_p is None else self.top_p,
            top_k=default.top_k if self.top_k is None else self.top_k,
        )

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


def read_settings(given: Mapping[str, Any]) -> SearchSettings:
    """Return the settings that keyword arguments describe.

    Raises:
        ConfigurationError: An unknown name, a value out of range, or a strategy or an option that does not exist.
    """
    try:
        return SearchSettings(**given)
    except ValidationError as error:
        raise ConfigurationError(explain_invalid(error)) from error


def override(own: SearchFields, given: Mapping[str, Any]) -> SearchSettings:
    """Return settings with a call's put over them.

    A call that names another strategy leaves the options of the first one behind, since they belong to it.

    Args:
        own: Settings, or a model that has their fields among others.
        given: What the call was given; names that are not settings are left alone.

    Raises:
        ConfigurationError: A value out of range, or a strategy or an option that does not exist.
    """
    values = {name: given.get(name, getattr(own, name)) for name in SearchSettings.model_fields}
    if "strategy_options" not in given and values["strategy"] != own.strategy:
        values["strategy_options"] = None
    return read_settings(values)


def parse_strategy(spec: str) -> dict[str, Any]:
    """Read "NAME" or "NAME:key=value,key=value" as keyword arguments of `SearchSettings`.

    A key is a setting or an option of the strategy. A value is JSON, or a word.

    Raises:
        ConfigurationError: Words that are not key=value.

    Example:
        >>> parse_strategy("tilted_restart:parents=3,temperature=0.7")
        {'strategy': 'tilted_restart', 'temperature': 0.7, 'strategy_options': {'parents': 3}}
        >>> parse_strategy("my_module:Mine:depth=2")
        {'strategy': 'my_module:Mine', 'strategy_options': {'depth': 2}}
    """
    name, rest = _SPEC.fullmatch(spec).groups() if _SPEC.fullmatch(spec) else (spec, None)  # type: ignore[union-attr]
    settings: dict[str, Any] = {"strategy": name.strip()}
    options: dict[str, Any] = {}
    for key, value in _pairs(rest or "").items():
        (settings if key in SearchSettings.model_fields else options)[key] = value
    if "strategy" in _pairs(rest or ""):
        raise ConfigurationError(f"{spec!r} names two strategies; expected NAME:key=value,key=value")
    return settings | ({"strategy_options": options} if options else {})


# A name, or "module:Class" (which no "=" follows), and the pairs behind a further colon.
_SPEC = re.compile(r"([^:=]+(?::[A-Za-z_][\w.]*(?=:|$))?)(?::(.*))?", re.DOTALL)
_PAIR = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*")
_WORD = re.compile(r"[^,\s=]+")


def _pairs(text: str) -> dict[str, Any]:
    """Read "key=value,key=value", a value being JSON (which may hold commas) or a word."""
    found: dict[str, Any] = {}
    place = 0
    while place < len(text):
        key = _PAIR.match(text, place)
        if key is None:
            raise ConfigurationError(f"{text[place:]!r} is not a setting; expected key=value, with JSON or a word")
        try:
            value, place = json.JSONDecoder().raw_decode(text, key.end())
        except ValueError:
            word = _WORD.match(text, key.end())
            if word is None:
                raise ConfigurationError(f"{key[1]} has no value in {text!r}; expected key=value") from None
            value, place = word[0], word.end()
        found[key[1]] = value
        if place < len(text):
            if text[place] != ",":
                raise ConfigurationError(f"{text[place:]!r} follows {key[1]}={value!r}; expected a comma")
            place += 1
    return found
