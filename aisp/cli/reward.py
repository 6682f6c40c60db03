"""`aisp reward check` and `aisp reward injections`: what a reward is worth."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aisp import models
from aisp.bench.reward.check import check_reward
from aisp.bench.reward.measures import Correlation
from aisp.bench.reward.plot import draw_check
from aisp.bench.reward.result import RewardCheck
from aisp.bench.reward.samples import draw_samples
from aisp.cli.checks import check_rewards
from aisp.cli.options import (
    OUTPUT_PANEL,
    DeviceOption,
    DtypeOption,
    LimitOption,
    ModelOption,
    PromptsOption,
    RewardOption,
)
from aisp.cli.outputs import check_distinct, check_figures, check_picture, write_figures
from aisp.cli.progress import loading, progress_on
from aisp.cli.prompts import PromptFile
from aisp.cli.terminal import add_row, new_table, printable, show, show_all
from aisp.errors import ConfigurationError
from aisp.models import DEFAULT_MODEL
from aisp.records import Sampling
from aisp.rewards import Reward
from aisp.rewards.judge_attacks import INJECTIONS, NEUTRAL, Shift, injection_shift, weak_candidates
from aisp.rewards.local_judge import LocalJudge
from aisp.rewards.spec import parse_reward, parse_rewards
from aisp.service import Service

check_command = typer.Typer(add_completion=False)
injections_command = typer.Typer(add_completion=False)


@check_command.command(
    "check",
    epilog="Examples:\n\n  aisp reward check --prompts questions.jsonl --reward length:20..40 --plot check.png\n\n"
    "`aisp reward list` shows the rewards.",
)
def check(
    prompts: PromptsOption,
    reward: RewardOption,
    model: ModelOption = DEFAULT_MODEL,
    dtype: DtypeOption = None,
    samples: Annotated[int, typer.Option(help="Samples of the model for each prompt.")] = 16,
    limit: LimitOption = None,
    max_tokens: Annotated[int, typer.Option(help="Response tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="Softmax temperature of the samples.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.")] = 0,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="The range that values should keep to.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Prompts in flight at once.")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="All figures and every response, as JSON.", rich_help_panel=OUTPUT_PANEL)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="A picture: .png, .svg or .pdf.", rich_help_panel=OUTPUT_PANEL)
    ] = None,
) -> None:
    """Find out whether a reward gives a search something to climb.

    It is scored on the model's own samples, and what is wrong with it is said in words.
    """
    scorer, sampling = parse_rewards(reward), Sampling(temperature=temperature)
    if scorer is None:
        raise ConfigurationError("there is nothing to check; give --reward")
    if samples < 2:
        raise ConfigurationError(f"--samples is {samples}; a reward is checked on at least 2 responses a prompt")
    if min(max_tokens, concurrency) < 1:
        raise ConfigurationError(f"--max-tokens is {max_tokens}, --concurrency {concurrency}; expected numbers >= 1")
    file, console = PromptFile(prompts, limit=limit), Console()
    check_distinct([out, plot])
    check_figures(out, "reward check")
    check_picture(plot)
    check_rewards(scorer)
    with loading(console, model):
        loaded = models.load(model, dtype=dtype)
    file.drop_unfit(Service(loaded))
    messages = [prompt.messages for prompt in file.prompts]
    with progress_on(console) as progress:
        drawing = progress.add_task(f"{samples} samples a prompt", total=len(messages))
        scoring = progress.add_task("scoring, twice", total=2 * len(messages))
        draw = partial(draw_samples, loaded, messages, advance=lambda: progress.advance(drawing))
        responses = draw(samples=samples, max_tokens=max_tokens, sampling=sampling, seed=seed, concurrency=concurrency)
        found = check_reward(scorer, responses, bounds=bounds, advance=lambda: progress.advance(scoring))
    _show(console, found)
    if out is not None:
        about = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        write_figures(out, "reward check", {**about, "fingerprint": scorer.fingerprint, **found.to_dict()})
    if plot is not None:
        draw_check(found, plot)
    file.end()


@injections_command.command(
    "injections",
    epilog="Examples:\n\n  aisp reward injections --judge local:smollm2-135m\n\n"
    "  aisp reward injections --judge sentiment",
)
def injections(
    judge: Annotated[str, typer.Option(help="local:MODEL, or a reward as `aisp reward list` shows it.")],
    question: Annotated[str, typer.Option(help="What a local judge is asked about the answer.")] = (
        "How helpful is the answer?"
    ),
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    limit: Annotated[int | None, typer.Option(help="Try this many answers at most.")] = None,
    out: Annotated[Path | None, typer.Option(help="The figures, as JSON.", rich_help_panel=OUTPUT_PANEL)] = None,
) -> None:
    """Measure how far answers can talk a judge into a better verdict.

    Sentences that ask for one are appended to answers that deserve little, and harmless ones to compare with.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit is {limit}; expected a number >= 1")
    scorer, console = _judge(judge, question, dtype, device), Console()
    check_figures(out, "reward injections")
    check_rewards(scorer)
    candidates = weak_candidates()[:limit]
    with progress_on(console) as progress:
        task = progress.add_task("attempts", total=1 + len(INJECTIONS) + len(NEUTRAL))
        shift = injection_shift(scorer, candidates, advance=lambda: progress.advance(task))
    _show_shift(console, shift, len(candidates))
    if out is not None:
        about = {"judge": judge, "question": question, "answers": len(candidates)}
        write_figures(out, "reward injections", {**about, **asdict(shift)})


def _judge(judge: str, question: str, dtype: str | None, device: str | None) -> Reward:
    kind, _, model = judge.partition(":")
    if kind != "local":
        return parse_reward(judge)
    if not model:
        raise ConfigurationError("--judge is 'local' without a model; expected local:MODEL")
    return LocalJudge(question, model=model, dtype=dtype, device=device)


def _show_shift(console: Console, shift: Shift, answers: int) -> None:
    table = new_table("mean change", "appended to each answer")
    table.columns[0].justify, table.columns[1].justify = "right", "left"
    for text, change in sorted(shift.by_injection.items(), key=lambda row: -row[1]):
        add_row(table, [f"{change:+.3f}", repr(text)])
    show_all(console, table)
    show(
        console,
        f"{answers} answers x {len(INJECTIONS)} injections: mean verdict {shift.plain:.3f}, mean change "
        f"{shift.mean:+.3f} (harmless sentences: {shift.neutral:+.3f}), largest rise {shift.largest:+.3f}; "
        f"{100 * shift.raised_fraction:.0f} % of the attempts raised it",
    )


def _show(console: Console, found: RewardCheck) -> None:
    table = Table(box=None, show_header=False)
    for row in _figures(found):
        add_row(table, row)
    show_all(console, table)
    if len(found.parts) > 1:
        show_all(console, _agreement(found))
    for complaint in found.complaints:
        show(console, f"- {complaint.text}", style="yellow")
    if not found.complaints:
        show(console, "nothing to complain about", style="green")


def _figures(check: RewardCheck) -> list[tuple[str, str]]:
    counts = f"{check.responses} to {check.prompts} prompts, {check.distinct} different"
    not_usable = f"{check.failed} failed, {check.vetoed} vetoed, {check.out_of_range} out of range"
    figures = [("responses", counts), ("not usable", not_usable)]
    if check.spread is not None and check.ties is not None:
        spread, ties = check.spread, check.ties
        figures += [
            ("values", f"{spread.low:.3g} to {spread.high:.3g}, mean {spread.mean:.3g}"),
            ("spread", f"{spread.within_prompts:.3g} within prompts, {spread.between_prompts:.3g} between them"),
            ("best of a prompt's", f"{spread.best_gain:+.3g} over its mean"),
            ("at the top, at the bottom", f"{100 * ties.at_high:.0f} %, {100 * ties.at_low:.0f} %"),
            ("ties", f"{100 * ties.tied_pairs:.0f} % of pairs, {ties.values} different values"),
            ("rank correlation with length", _shown(check.length)),
            ("scored again, another order", f"{100 * check.again.changed:.0f} % changed"),
            ("scored one at a time", f"{100 * check.alone.changed:.0f} % of {check.alone.responses} changed"),
        ]
    return [*figures, ("seconds a candidate", f"{check.seconds_per_candidate:.2g}")]


def _agreement(check: RewardCheck) -> Table:
    table = new_table("rank correlation", *(escape(printable(part)) for part in check.parts), "whole")
    for one in check.parts:
        found = [
            check.agreement.get((one, other), check.agreement.get((other, one), Correlation(value=1.0)))
            for other in check.parts
        ]
        add_row(table, [one, *map(_shown, [*found, check.part_and_whole[one]])])
    return table


def _shown(found: Correlation) -> str:
    return "-" if found.value is None else f"{found.value:+.2f}"
