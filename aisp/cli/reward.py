"""What `aisp reward check` and `aisp reward injections` do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aisp.bench.reward.check import RewardCheck, check_reward
from aisp.bench.reward.measures import Correlation
from aisp.bench.reward.samples import draw_samples
from aisp.cli.progress import progress_on
from aisp.errors import ConfigurationError
from aisp.jsonl import read_prompts
from aisp.records import Sampling
from aisp.rewards.judge_attacks import INJECTIONS, NEUTRAL, Shift, injection_shift, weak_candidates
from aisp.rewards.local_judge import LocalJudge
from aisp.rewards.spec import parse_reward, parse_rewards


def run_check(
    prompts: Path,
    rewards: Sequence[str],
    *,
    model: str,
    dtype: str | None,
    samples: int,
    limit: int | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    bounds: tuple[float, float] | None,
    concurrency: int,
    out: Path | None,
    plot: Path | None,
) -> RewardCheck:
    """Draw samples, check the rewards' sum on them, print what is wrong, and write what was found.

    Raises:
        ConfigurationError: Words that name no reward; no prompts; fewer than two samples.
    """
    from aisp.cli.align import load_quietly
    from aisp.models import load

    reward = parse_rewards(rewards)
    if reward is None:
        raise ConfigurationError("there is nothing to check; give --reward")
    if samples < 2:
        raise ConfigurationError(f"samples is {samples}; a reward is checked on at least 2 responses a prompt")
    load_quietly(model)
    chosen, loaded = read_prompts(prompts)[:limit], load(model, dtype=dtype)
    console = Console()
    with progress_on(console) as progress:
        drawing = progress.add_task(f"{samples} samples a prompt", total=len(chosen))
        scoring = progress.add_task("scoring, twice", total=2 * len(chosen))
        responses = draw_samples(
            loaded,
            chosen,
            samples=samples,
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature),
            seed=seed,
            concurrency=concurrency,
            advance=lambda: progress.advance(drawing),
        )
        check = check_reward(reward, responses, bounds=bounds, advance=lambda: progress.advance(scoring))
    _show(console, check)
    if out is not None:
        about = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        content = {**about, "fingerprint": reward.fingerprint, **check.to_dict()}
        out.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        check.plot(plot)
    return check


def run_injections(
    judge: str, question: str, *, dtype: str | None, device: str | None, limit: int | None, out: Path | None
) -> Shift:
    """Measure how far injections move a judge on answers that deserve little, and print a row each.

    Args:
        judge: local:MODEL, or a reward as the command line writes it.
        question: What a local judge is asked about the answer.
        dtype: Of a local judge's weights.
        device: Where a local judge runs.
        limit: Answers at most.
        out: Where the figures go, as JSON.

    Raises:
        ConfigurationError: Words that name no judge.
    """
    from aisp.cli.align import load_quietly

    kind, _, model = judge.partition(":")
    if kind == "local" and not model:
        raise ConfigurationError("judge is 'local' without a model; expected local:MODEL")
    load_quietly(model)
    own = LocalJudge(question, model=model, dtype=dtype, device=device) if kind == "local" else parse_reward(judge)
    candidates, console = weak_candidates()[:limit], Console()
    with progress_on(console) as progress:
        task = progress.add_task("attempts", total=1 + len(INJECTIONS) + len(NEUTRAL))
        shift = injection_shift(own, candidates, advance=lambda: progress.advance(task))
    table = Table("mean change", "appended to each answer", box=None)
    for text, change in sorted(shift.by_injection.items(), key=lambda row: -row[1]):
        table.add_row(f"{change:+.3f}", escape(repr(text)))
    console.print(table)
    console.print(
        f"{len(candidates)} answers x {len(INJECTIONS)} injections: mean verdict {shift.plain:.3f}, mean change "
        f"{shift.mean:+.3f} (harmless sentences: {shift.neutral:+.3f}), largest rise {shift.largest:+.3f}, "
        f"{100 * shift.raised_fraction:.0f} % of attempts raised it",
        highlight=False,
    )
    if out is not None:
        about = {"judge": judge, "question": question, "answers": len(candidates)}
        out.write_text(json.dumps({**about, **asdict(shift)}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return shift


def _show(console: Console, check: RewardCheck) -> None:
    table = Table(box=None, show_header=False)
    for name, figure in _figures(check):
        table.add_row(name, figure)
    console.print(table)
    if len(check.parts) > 1:
        console.print(_agreement(check))
    for complaint in check.complaints:
        console.print(f"- {escape(complaint.text)}", style="yellow", highlight=False)
    if not check.complaints:
        console.print("nothing to complain of", style="green")


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
    table = Table("rank correlation", *check.parts, "whole", box=None)
    for one in check.parts:
        found = [
            check.agreement.get((one, other), check.agreement.get((other, one), Correlation(value=1.0)))
            for other in check.parts
        ]
        table.add_row(one, *map(_shown, [*found, check.part_and_whole[one]]))
    return table


def _shown(found: Correlation) -> str:
    return "-" if found.value is None else f"{found.value:+.2f}"
