"""What `aisp bench quality` does: run what is missing, then write the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import TimeRemainingColumn

from aisp.bench.quality.answers import best_of_n
from aisp.bench.quality.report import Report, report
from aisp.bench.quality.runs import Quality
from aisp.bench.rivals import RULES, Selection
from aisp.cli.progress import progress_on
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, read_prompts
from aisp.records import Sampling
from aisp.rewards.spec import parse_reward, parse_rewards
from aisp.settings import SearchSettings

_SCREENED = 128  # plain samples that a prompt's difficulty is told by
_SCREENING = -1  # their seed, which is no search's and not the pools'
# What ends a search before its budget, or makes its rounds those of blocks: no figure for each number of responses.
_NOT_COMPARED = ("patience", "target_reward", "timeout", "on_timeout", "commit_tokens")
# The benchmark's own, one for all strategies.
_ITS_OWN = ("budget", "num_rounds", "max_tokens", "seed")


def run_quality(
    prompts: Path,
    rewards: Sequence[str],
    held_out: Sequence[str],
    strategies: Sequence[str],
    rules: Sequence[str],
    plain: Sequence[str],
    *,
    model: str,
    dtype: str | None,
    budget: int,
    pool: int,
    num_samples: int,
    max_tokens: int,
    seeds: int,
    skip: int,
    limit: int | None,
    concurrency: int,
    out: Path,
    between: tuple[float, float] | None = None,
    name: str = "report",
) -> Report:
    """Run the benchmark into a folder: rows.jsonl, and a Markdown report and a PNG of the given name.

    Args:
        between: Prompts are left out where best-of-128 of the first held-out reward (of the reward, if none is held
            out) is outside of this: what plain samples always or never reach tells nothing of a search.

    Raises:
        ConfigurationError: Words that name no reward, strategy or setting; no prompts.
    """
    from aisp.models import load

    reward = parse_rewards(rewards)
    if reward is None:
        raise ConfigurationError("there is nothing to optimise; give --reward")
    chosen = read_prompts(prompts)[skip:][:limit]
    if not chosen:
        raise ConfigurationError(f"{prompts} holds no prompts after the first {skip}")
    out.mkdir(parents=True, exist_ok=True)
    quality = Quality(
        model=load(model, dtype=dtype),
        prompts=chosen,
        reward=reward,
        held_out={spec: parse_reward(spec) for spec in held_out},
        strategies={spec: _strategy(spec, num_samples) for spec in strategies},
        rules={spec: _rule(spec) for spec in rules},
        plain={spec: _sampling(spec) for spec in plain},
        pool_size=pool,
        budget=budget,
        max_tokens=max_tokens,
        seeds=tuple(range(1, seeds + 1)),
        results=ResultFile(out / "rows.jsonl"),
        concurrency=concurrency,
    )
    console = Console()
    if between is not None:
        quality = _within(quality, plain[0], between, console)
    _run(quality, "pools and searches", console)
    made = report(quality, plain[0])
    text = made.markdown()
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    made.plot(out / f"{name}.png")
    console.print(Markdown(text))
    console.print(f"rows.jsonl, {name}.md and {name}.png are in {out}", highlight=False)
    return made


def _run(quality: Quality, what: str, console: Console) -> None:
    with progress_on(console, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=len(quality.tasks()))
        quality.run(lambda: progress.advance(task))


def _within(quality: Quality, plain: str, bounds: tuple[float, float], console: Console) -> Quality:
    """Return the benchmark on those prompts alone where best-of-n, as far as it is screened, is within bounds."""
    low, high = bounds
    # One way of sampling and no search: the others are for the prompts that are kept.
    screened = replace(quality, strategies={}, plain={plain: quality.plain[plain]}, pool_seed=_SCREENING)
    _run(screened, "screening", console)
    measures, n = best_of_n(screened, plain).measures, min(_SCREENED, quality.pool_size)
    levels = measures[next(iter(quality.held_out), "reward")][:, 0, n - 1]
    chosen = [prompt for prompt, level in zip(quality.prompts, levels, strict=True) if low <= level <= high]
    if not chosen:
        raise ConfigurationError(
            f"best-of-{n} is from {levels.min():.3g} to {levels.max():.3g}, nowhere between {low:g} and {high:g}; give "
            "other bounds or prompts"
        )
    console.print(
        f"best-of-{n} is between {low:g} and {high:g} on {len(chosen)} of {len(levels)} prompts", highlight=False
    )
    return replace(quality, prompts=chosen)


def _strategy(spec: str, num_samples: int) -> SearchSettings:
    """Read `name` or `name:setting=value,setting=value`."""
    name, _, rest = spec.partition(":")
    given = _numbers(rest)
    if name in RULES:
        raise ConfigurationError(f"--strategy {spec} is a rule over plain samples; give it as --rule {spec}")
    refused = [word for word in (*_NOT_COMPARED, *_ITS_OWN) if word in given]
    if refused:
        raise ConfigurationError(
            f"--strategy {spec} sets {', '.join(refused)}; strategies are compared response by response, over one "
            "budget; leave it out, or give --budget or --max-tokens for all"
        )
    rounds = {} if "preset" in given else {"num_samples": num_samples}  # a preset has its own
    return _settings("--strategy", spec, name, {**rounds, **given})


def _rule(spec: str) -> Selection:
    """Read a rule over plain samples in the same way."""
    name, _, rest = spec.partition(":")
    if name not in RULES:
        raise ConfigurationError(f"--rule {spec} is none of {', '.join(sorted(RULES))}; give it as --strategy {spec}")
    try:
        return RULES[name](**_numbers(rest))
    except TypeError as error:
        raise ConfigurationError(f"--rule {spec}: {error}") from error


def _settings(option: str, spec: str, name: str, given: Mapping[str, Any]) -> SearchSettings:
    try:
        return SearchSettings(strategy=name, **given)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigurationError(f"{option} {spec}: {error}") from error


def _sampling(spec: str) -> Sampling:
    try:
        return Sampling(**_numbers(spec))
    except TypeError as error:
        raise ConfigurationError(f"--plain {spec}: {error}; expected temperature, top_p or top_k") from error


def _numbers(words: str) -> dict[str, Any]:
    """Read `name=value,name=value`."""
    found: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        name, _, value = word.partition("=")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError as error:
            raise ConfigurationError(f'{word!r} is no setting; expected name=number or name="word"') from error
    return found
