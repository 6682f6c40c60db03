"""What a quality benchmark compares, read from the words of its command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aisp.bench.quality.runs import check_gold
from aisp.bench.rivals import RULES, Selection
from aisp.cli.options import read_pairs, read_strategy
from aisp.errors import ConfigurationError
from aisp.records import Sampling
from aisp.rewards.spec import parse_reward, parse_rewards
from aisp.settings import SearchSettings

# What ends a search before its budget, or makes its rounds those of blocks: no figure for each number of responses.
_NOT_COMPARED = ("patience", "response_price", "target_reward", "timeout", "on_timeout", "commit_tokens")
_FOLDERS = re.compile(r"(?<=:)[~.]{0,2}/[^:\s]*/")
# The benchmark's own, one for all strategies.
_ITS_OWN = ("budget", "num_rounds", "max_tokens", "seed")


def read_compared(
    rewards: Sequence[str],
    held_out: Sequence[str],
    gold: Sequence[str],
    strategies: Sequence[str],
    rules: Sequence[str],
    plain: Sequence[str],
    num_samples: int,
) -> dict[str, Any]:
    """Return what is compared, as `Quality` takes it, by its words.

    Raises:
        ConfigurationError: Words that name no reward, strategy, rule or setting, or nothing to optimise.
    """
    reward = parse_rewards(rewards)
    if reward is None:
        raise ConfigurationError("there is nothing to optimise; give --reward")
    if not plain:
        raise ConfigurationError("there is no baseline; give --plain temperature=0.8")
    names = labels((*held_out, *gold))
    outside = {name: parse_reward(spec) for spec, name in names.items()}
    named_gold = [names[spec] for spec in dict.fromkeys(gold)]
    check_gold(reward, outside, named_gold)
    return {
        "reward": reward,
        "held_out": outside,
        "gold": tuple(named_gold),
        "strategies": {spec: _strategy(spec, num_samples) for spec in strategies},
        "rules": {spec: _rule(spec) for spec in rules},
        "plain": {spec: _sampling(spec) for spec in plain},
    }


def labels(specs: Sequence[str]) -> dict[str, str]:
    """Return what specifications are called in tables: without folders, unless two would be called the same."""
    short = {spec: _FOLDERS.sub("", spec).replace("|", "/") for spec in specs}
    called = list(short.values())
    return {spec: name if called.count(name) == 1 else spec for spec, name in short.items()}


def _strategy(spec: str, num_samples: int) -> SearchSettings:
    """Read NAME or NAME:KEY=VALUE,KEY=VALUE as a strategy."""
    if spec.partition(":")[0] in RULES:
        raise ConfigurationError(f"--strategy {spec} is a rule over plain samples; give it as --rule {spec}")
    settings = read_strategy(spec, {})
    given = settings.model_dump(exclude_unset=True)
    refused = [word for word in (*_NOT_COMPARED, *_ITS_OWN) if word in given]
    if refused:
        raise ConfigurationError(
            f"--strategy {spec} sets {', '.join(refused)}; strategies are compared response by response, over one "
            "budget; leave it out, or give --budget or --max-tokens for all"
        )
    # A preset has rounds of its own.
    rounds: dict[str, Any] = {} if "preset" in given else {"num_samples": num_samples}
    settings = read_strategy(spec, rounds)
    settings.make_strategy(rewarded=True)
    return settings


def _rule(spec: str) -> Selection:
    """Read a rule over plain samples in the same way."""
    name, _, rest = spec.partition(":")
    if name not in RULES:
        raise ConfigurationError(
            f"--rule {spec} is not one of {', '.join(sorted(RULES))}; give a strategy as --strategy {spec}"
        )
    try:
        return RULES[name](**_pairs(rest, "--rule"))
    except TypeError as error:
        raise ConfigurationError(f"--rule {spec}: {error}") from error


def _sampling(spec: str) -> Sampling:
    try:
        return Sampling(**_pairs(spec, "--plain"))
    except TypeError as error:
        raise ConfigurationError(f"--plain {spec}: {error}; expected temperature, top_p or top_k") from error


def _pairs(words: str, option: str) -> dict[str, Any]:
    return read_pairs([word for word in words.split(",") if word.strip()], option)
