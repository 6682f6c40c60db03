"""`aisp bench quality`: strategies against best-of-n at every budget, as rows, a report and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import TimeRemainingColumn

from aisp import models
from aisp.bench.quality.answers import best_of_n
from aisp.bench.quality.report import Report, report
from aisp.bench.quality.runs import Quality
from aisp.bench.rivals import RULES, Selection
from aisp.cli.checks import check_rewards
from aisp.cli.options import (
    DtypeOption,
    LimitOption,
    ModelOption,
    PromptsOption,
    RewardOption,
    read_pairs,
    read_strategy,
)
from aisp.cli.outputs import check_picture, check_report, write_report
from aisp.cli.progress import loading, progress_on
from aisp.cli.prompts import PromptFile
from aisp.cli.terminal import printable, show, show_all
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile
from aisp.models import DEFAULT_MODEL
from aisp.records import Sampling
from aisp.rewards.spec import parse_reward, parse_rewards
from aisp.service import Service
from aisp.settings import SearchSettings

_COMMAND = "bench quality"
_SCREENED = 128  # plain samples that a prompt's difficulty is measured by
_SCREENING = -1  # their seed, which no search has and no pool
# What ends a search before its budget, or makes its rounds those of blocks: no figure for each number of responses.
_NOT_COMPARED = ("patience", "target_reward", "timeout", "on_timeout", "commit_tokens")
# The benchmark's own, one for all strategies.
_ITS_OWN = ("budget", "num_rounds", "max_tokens", "seed")
_EPILOG = """\
Examples:

  aisp bench quality --prompts questions.jsonl --reward sentiment --out results

  aisp bench quality --prompts F --reward ifeval:F --held-out strict:ifeval:F --out results

A run that was killed goes on where it stopped: call it again."""

command = typer.Typer(add_completion=False)


@command.command("quality", epilog=_EPILOG)
def quality(
    prompts: PromptsOption,
    reward: RewardOption,
    out: Annotated[Path, typer.Option(help="The folder for rows.jsonl, the report and its picture.")],
    held_out: Annotated[
        list[str], typer.Option(metavar="SPEC", help="A reward that is reported and not optimised.")
    ] = [],  # noqa: B006 - Typer copies it
    strategy: Annotated[
        list[str], typer.Option(metavar="NAME[:KEY=VALUE,...]", help="A strategy, with settings of its own.")
    ] = ["tilted_restart"],  # noqa: B006
    rule: Annotated[
        list[str],
        typer.Option(metavar="NAME[:KEY=VALUE,...]", help="soft_best_of_n or pessimism, over the plain samples."),
    ] = [],  # noqa: B006
    plain: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE,...", help="How best-of-n samples; the first is the baseline.")
    ] = ["temperature=0.8"],  # noqa: B006
    model: ModelOption = DEFAULT_MODEL,
    dtype: DtypeOption = None,
    budget: Annotated[int, typer.Option(help="Responses of a search.")] = 128,
    pool: Annotated[int, typer.Option(help="Plain samples for each prompt.")] = 128,
    num_samples: Annotated[int, typer.Option(help="Responses a round at most.")] = 16,
    max_tokens: Annotated[int, typer.Option(help="Response tokens at most.")] = 40,
    seeds: Annotated[int, typer.Option(help="Searches for each prompt and strategy.")] = 1,
    skip: Annotated[int, typer.Option(help="Leave out the first prompts, to tune on others.")] = 0,
    limit: LimitOption = None,
    concurrency: Annotated[int, typer.Option(help="Prompts in flight at once.")] = 8,
    between: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH", help="Keep the prompts whose best-of-128 lies there, by the first held-out reward."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the report, so that several rewards in one folder share their plain samples.")
    ] = "report",
) -> None:
    """Compare strategies with best-of-n, paired by prompt and seed, at every budget."""
    run_quality(
        prompts,
        reward,
        held_out,
        strategy,
        rule,
        plain,
        model=model,
        dtype=dtype,
        budget=budget,
        pool=pool,
        num_samples=num_samples,
        max_tokens=max_tokens,
        seeds=seeds,
        skip=skip,
        limit=limit,
        concurrency=concurrency,
        out=out,
        between=between,
        name=name,
    )


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
            out) is outside of this: what plain samples always or never reach shows nothing of a search.

    Raises:
        ConfigurationError: Words that name no reward, strategy or setting; no prompts; files that aren't of this
            benchmark.
    """
    _check_numbers(
        budget=budget, pool=pool, num_samples=num_samples, max_tokens=max_tokens, seeds=seeds, concurrency=concurrency
    )
    compared = _read(rewards, held_out, strategies, rules, plain, num_samples)
    file, console = PromptFile(prompts, skip=skip, limit=limit), Console()
    report_path, picture = _places(out, name)
    check_rewards(compared["reward"], *compared["held_out"].values())
    with ResultFile(
        out / "rows.jsonl", _COMMAND, {"model": model, "dtype": dtype, "max_tokens": max_tokens}
    ) as results:
        with loading(console, model):
            loaded = models.load(model, dtype=dtype)
        file.drop_unfit(Service(loaded))
        bench = Quality(
            model=loaded,
            prompts=[prompt.messages for prompt in file.prompts],
            **compared,
            pool_size=pool,
            budget=budget,
            max_tokens=max_tokens,
            seeds=tuple(range(1, seeds + 1)),
            results=results,
            concurrency=concurrency,
        )
        if between is not None:
            bench = _within(bench, plain[0], between, console)
        _run(bench, "pools and searches", console)
        made = report(bench, plain[0])
    write_report(report_path, _COMMAND, made.markdown())
    made.plot(picture)
    show_all(console, Markdown(printable(made.markdown())))
    show(console, f"rows.jsonl, {name}.md and {name}.png are in {out}")
    file.end()
    return made


def _check_numbers(**numbers: int) -> None:
    small = {name: number for name, number in numbers.items() if number < 1}
    if small:
        told = ", ".join(f"--{name.replace('_', '-')} is {number}" for name, number in small.items())
        raise ConfigurationError(f"{told}; expected numbers >= 1")


def _read(
    rewards: Sequence[str],
    held_out: Sequence[str],
    strategies: Sequence[str],
    rules: Sequence[str],
    plain: Sequence[str],
    num_samples: int,
) -> dict[str, Any]:
    """Return what is compared, as `Quality` takes it, by its words."""
    reward = parse_rewards(rewards)
    if reward is None:
        raise ConfigurationError("there is nothing to optimise; give --reward")
    if not plain:
        raise ConfigurationError("there is no baseline; give --plain temperature=0.8")
    return {
        "reward": reward,
        "held_out": {spec: parse_reward(spec) for spec in held_out},
        "strategies": {spec: _strategy(spec, num_samples) for spec in strategies},
        "rules": {spec: _rule(spec) for spec in rules},
        "plain": {spec: _sampling(spec) for spec in plain},
    }


def _places(out: Path, name: str) -> tuple[Path, Path]:
    """Make the folder, and return where the report and its picture go."""
    if Path(name).name != name:
        raise ConfigurationError(f"--name is {name!r}; expected the name of a file without a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {out} can't be made: {error}; give another --out") from error
    report_path, picture = out / f"{name}.md", out / f"{name}.png"
    check_report(report_path, _COMMAND)
    check_picture(picture)
    return report_path, picture


def _run(bench: Quality, what: str, console: Console) -> None:
    with progress_on(console, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=len(bench.tasks()))
        bench.run(lambda: progress.advance(task))


def _within(bench: Quality, plain: str, bounds: tuple[float, float], console: Console) -> Quality:
    """Return the benchmark on those prompts alone where best-of-n, as far as it is screened, is within bounds."""
    low, high = bounds
    # One way of sampling and no search: the others are for the prompts that are kept.
    screened = replace(bench, strategies={}, plain={plain: bench.plain[plain]}, pool_seed=_SCREENING)
    _run(screened, "screening", console)
    measures, n = best_of_n(screened, plain).measures, min(_SCREENED, bench.pool_size)
    levels = measures[next(iter(bench.held_out), "reward")][:, 0, n - 1]
    chosen = [prompt for prompt, level in zip(bench.prompts, levels, strict=True) if low <= level <= high]
    if not chosen:
        raise ConfigurationError(
            f"best-of-{n} is from {levels.min():.3g} to {levels.max():.3g}, nowhere between {low:g} and {high:g}; give "
            "other bounds or prompts"
        )
    show(console, f"best-of-{n} is between {low:g} and {high:g} on {len(chosen)} of {len(levels)} prompts")
    return replace(bench, prompts=chosen)


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
