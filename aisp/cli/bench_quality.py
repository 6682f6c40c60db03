"""`aisp bench quality`: strategies against best-of-n at every budget, as rows, a report and a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import TimeRemainingColumn

from aisp import models
from aisp.bench.quality.answers import best_of_n
from aisp.bench.quality.pairs import shown_pairs
from aisp.bench.quality.pairwise import PairwiseJudge, Tournament, WinRate
from aisp.bench.quality.picture import draw
from aisp.bench.quality.report import Report, report
from aisp.bench.quality.runs import Quality
from aisp.bench.quality.tables import as_markdown
from aisp.cli.checks import check_rewards
from aisp.cli.compared import labels, read_compared
from aisp.cli.options import (
    DtypeOption,
    LimitOption,
    ModelOption,
    PromptsOption,
    RewardOption,
)
from aisp.cli.outputs import check_picture, check_report, write_report
from aisp.cli.progress import loading, progress_on
from aisp.cli.prompts import PromptFile
from aisp.cli.terminal import printable, show, show_all
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile
from aisp.models import DEFAULT_MODEL
from aisp.service import Service

_COMMAND = "bench quality"
_SCREENED = 128  # plain samples that a prompt's difficulty is measured by
_SCREENING = -1  # their seed, which no search has and no pool
_EPILOG = """\
Examples:

  aisp bench quality --prompts questions.jsonl --reward sentiment --out results

  aisp bench quality --prompts F --reward ifeval:F --held-out strict:ifeval:F --out results

  aisp bench quality --prompts F --reward sentiment --gold classifier:MODEL --pairwise "judge:MODEL:Is it well written?"
  --show 10 --out results

The report tells how answers read beside what they score: gold measures, loops and salad against plain samples of the
same prompt, win rates by a judge of pairs, rewards at equal seconds.

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
    gold: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC",
            help="A held-out reward that stands for what is meant: another judge or model of the same quality. It is "
            "compared at equal reward and responses, and drawn against the KL.",
        ),
    ] = [],  # noqa: B006
    pairwise: Annotated[
        list[str],
        typer.Option(
            metavar="judge:MODEL:QUESTION", help="A judge of our answer beside best-of-n's, in both orders: win rates."
        ),
    ] = [],  # noqa: B006
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
    concurrency: Annotated[
        int, typer.Option(help="Prompts in flight at once; with 1, seconds are those of one request alone.")
    ] = 8,
    between: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Keep the prompts whose best-of-128 lies there, by the first held-out reward that is not gold.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the report, so that several rewards in one folder share their plain samples.")
    ] = "report",
    shown: Annotated[
        int, typer.Option("--show", help="Pairs of answers in the report, best-of-n's beside the search's, to read.")
    ] = 0,
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
        gold=gold,
        pairwise=pairwise,
        shown=shown,
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
    gold: Sequence[str] = (),
    pairwise: Sequence[str] = (),
    shown: int = 0,
) -> Report:
    """Run the benchmark into a folder: rows.jsonl, and a Markdown report and a PNG of the given name.

    Args:
        between: Prompts are left out where best-of-128 of the first held-out reward (of the reward, if none is held
            out) is outside of this: what plain samples always or never reach shows nothing of a search. Gold chooses
            no prompts.
        gold: Held-out rewards that stand for what is meant.
        pairwise: Judges of pairs of answers.
        shown: Pairs of answers in the report.

    Raises:
        ConfigurationError: Words that name no reward, strategy or setting; no prompts; files that aren't of this
            benchmark.
    """
    _check_numbers(
        pool, shown, budget=budget, num_samples=num_samples, max_tokens=max_tokens, seeds=seeds, concurrency=concurrency
    )
    compared = read_compared(rewards, held_out, gold, strategies, rules, plain, num_samples)
    judges = [PairwiseJudge.of(spec, name) for spec, name in labels(pairwise).items()]
    file, console = PromptFile(prompts, skip=skip, limit=limit), Console()
    report_path, picture = _places(out, name)
    check_rewards(compared["reward"], *compared["held_out"].values(), *(judge.judge for judge in judges))
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
        wins = [win for judge in judges for win in _judged(Tournament(bench, plain[0], judge), console)]
        made, pairs = report(bench, plain[0]), shown_pairs(bench, plain[0], shown)
    _write(as_markdown(made, wins), pairs, report_path, console)
    draw(made, picture)
    show(console, f"rows.jsonl, {name}.md and {name}.png are in {out}")
    file.end()
    return made


def _write(tables: str, pairs: str, path: Path, console: Console) -> None:
    """Write the report and show it, whatever texts of the model are in it."""
    tables, pairs = printable(tables), printable(pairs)
    write_report(path, _COMMAND, f"{tables}\n{pairs}" if pairs else tables)
    for block in re.split("\n\n+", tables.strip()):
        if block.startswith("|"):
            show_all(console, Markdown(block))
        else:  # a sentence, which is as wide as the console
            console.print(Markdown(block))
    if pairs:
        show(console, pairs)  # as text, which is never laid out


def _check_numbers(pool: int, shown: int, **numbers: int) -> None:
    if pool < 2:
        raise ConfigurationError(f"--pool is {pool}; expected a number >= 2, since each sample is judged by the others")
    if shown < 0:
        raise ConfigurationError(f"--show is {shown}; expected a number >= 0")
    small = {name: number for name, number in numbers.items() if number < 1}
    if small:
        told = ", ".join(f"--{name.replace('_', '-')} is {number}" for name, number in small.items())
        raise ConfigurationError(f"{told}; expected numbers >= 1")


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


def _judged(pairs: Tournament, console: Console) -> list[WinRate]:
    with progress_on(console, TimeRemainingColumn()) as progress:
        task = progress.add_task("pairs", total=len(pairs.missing()))
        pairs.run(lambda: progress.advance(task))
    return pairs.win_rates()


def _within(bench: Quality, plain: str, bounds: tuple[float, float], console: Console) -> Quality:
    """Return the benchmark on those prompts alone where best-of-n, as far as it is screened, is within bounds."""
    low, high = bounds
    # One way of sampling and no search: the others are for the prompts that are kept.
    screened = replace(bench, strategies={}, plain={plain: bench.plain[plain]}, pool_seed=_SCREENING)
    _run(screened, "screening", console)
    measures, n = best_of_n(screened, plain).measures, min(_SCREENED, bench.pool_size)
    levels = measures[next((name for name in bench.held_out if name not in bench.gold), "reward")][:, 0, n - 1]
    chosen = [prompt for prompt, level in zip(bench.prompts, levels, strict=True) if low <= level <= high]
    if not chosen:
        raise ConfigurationError(
            f"best-of-{n} is from {levels.min():.3g} to {levels.max():.3g}, nowhere between {low:g} and {high:g}; give "
            "other bounds or prompts"
        )
    show(console, f"best-of-{n} is between {low:g} and {high:g} on {len(chosen)} of {len(levels)} prompts")
    return replace(bench, prompts=chosen)
