"""The report as Markdown: short tables, each under a sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aisp.bench.quality.answers import OF_TEXTS
from aisp.bench.quality.pairwise import WinRate
from aisp.bench.quality.reader_tables import equal_seconds, gold_curves, gold_differences, how_answers_read, win_rates
from aisp.bench.quality.report import Report
from aisp.bench.quality.statistics import paired
from aisp.records import FloatArray

_BESIDE_GOLD = ("surprisal", "kl_to_base", "diversity")


def as_markdown(report: Report, wins: Sequence[WinRate] = ()) -> str:
    """Return a report as Markdown.

    Args:
        report: What the rows say.
        wins: What a judge of pairs says, where there is one.
    """
    blocks = (
        _rewards(report),
        _differences(report),
        _reach(report),
        equal_seconds(report),
        gold_differences(report),
        gold_curves(report),
        win_rates(wins),
        how_answers_read(report),
        _at_equal_reward(report),
        _answers(report),
        _runs(report),
    )
    told = [list(block) for block in blocks]
    text = "\n\n".join("\n".join(block) for block in told if block) + "\n"
    left_out = f"\nWithout an answer on one side, and left out: {report.left_out} prompts.\n"
    return text + left_out * bool(report.left_out)


def _rewards(report: Report) -> Iterator[str]:
    budgets = report.budgets()
    yield "**Reward.** The mean over prompts and seeds of the returned answer's reward, and what a whole run costs.\n"
    yield "| " + " | ".join(["mean reward at budget", *map(str, budgets), "forward tokens", "seconds"]) + " |"
    yield "|---" * (len(budgets) + 3) + "|"
    for name, answers in report.answers.items():
        mean = answers.mean("reward")
        cells = [f"{mean[b - 1]:.3f}" if b <= answers.size else "" for b in budgets]
        tokens, seconds = (cost[:, :, -1].mean() for cost in (answers.forward_tokens, answers.seconds))
        yield "| " + " | ".join([name, *cells, f"{tokens:.0f}", f"{seconds:.1f}"]) + " |"


def _differences(report: Report) -> Iterator[str]:
    yield (
        "**At equal responses.** The difference to the baseline, paired by prompt and seed, in the prompt's own "
        "standard deviations over plain samples; intervals are of a bootstrap over prompts.\n"
    )
    yield (
        f"| minus {report.baseline}, in its standard deviations | budget | difference | 95 % interval | "
        "one-sided bound | prompts |"
    )
    yield "|---|---|---|---|---|---|"
    for name in report.others:
        for budget in report.budgets(name):
            d = report.difference(name, budget)
            figures = f"{d.mean:+.2f} | {d.low:+.2f} to {d.high:+.2f} | {d.bound:+.2f}" if d.prompts else " |  | "
            yield f"| {name} | {budget} | {figures} | {d.prompts} |"


def _reach(report: Report) -> Iterator[str]:
    yield "**Responses saved.** After how many responses a strategy has the reward that the baseline ends with.\n"
    goal = f"to reach the baseline's at {report.answers[report.baseline].size}"
    yield f"| {goal} | that is | responses | 95 % interval | of its tokens | of its seconds |"
    yield "|---|---|---|---|---|---|"
    for name, answers in report.others.items():
        base = report.compared(name)
        n, low, high = report.reach(name)
        told, least, most = (f"{m:.0f}" if np.isfinite(m) else "not reached" for m in (n, low, high))
        pairs = ((answers.forward_tokens, base.forward_tokens), (answers.seconds, base.seconds))
        shares = [
            f"{ours[:, :, int(n) - 1].mean() / theirs[:, :, -1].mean():.2f}" if np.isfinite(n) else ""
            for ours, theirs in pairs
        ]
        yield f"| {name} | {base.mean('reward')[-1]:.3f} | {told} | {least} to {most} | {' | '.join(shares)} |"


def _at_equal_reward(report: Report) -> Iterator[str]:
    """Compare what else the answers measure where both sides' mean reward is that of the baseline at a budget."""
    yield "**At equal reward.** What else differs where both sides have the baseline's mean reward at a budget.\n"
    yield "| at the reward of | baseline's responses | ours | measure | ours | baseline's | gap | 95 % interval |"
    yield "|---" * 8 + "|"
    columns = (*_BESIDE_GOLD, *(name for name in report.held_out if name not in report.gold))
    for name, answers in report.others.items():
        base = report.compared(name)
        for budget in report.budgets()[-3:]:
            n = answers.reaches(float(base.mean("reward")[budget - 1]))
            if n is None:
                continue
            for column in columns:
                ours, theirs = answers.measures[column][:, :, n - 1], base.measures[column][:, :, budget - 1]
                d = paired((ours - theirs).tolist())
                means = f"{ours.mean():.3f} | {theirs.mean():.3f}"
                gap = f"{d.mean:+.3f} | {d.low:+.3f} to {d.high:+.3f}"
                yield f"| {name} | {budget} | {n} | {column} | {means} | {gap} |"


def _answers(report: Report) -> Iterator[str]:
    columns, last = (*OF_TEXTS, *report.held_out), min(answers.size for answers in report.answers.values())
    yield "**Answers.** Means of what is returned; surprisal is in nats a token, kl_to_base in nats.\n"
    yield f"| answers at budget {last} | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, answers in report.answers.items():
        yield f"| {name} | " + " | ".join(f"{answers.mean(column)[last - 1]:.3f}" for column in columns) + " |"


def _runs(report: Report) -> Iterator[str]:
    """Tell how many of a run's responses differ, and what its weights were worth after each budget's round."""
    budgets = report.budgets()
    yield "**Runs.** How many responses of a run differ, how many were vetoed, and the effective sample size (ESS).\n"
    yield (
        "| " + " | ".join(["of a run", "responses", "different", "vetoed", *(f"ESS after {b}" for b in budgets)]) + " |"
    )
    yield "|---" * (len(budgets) + 4) + "|"
    for name, answers in report.answers.items():
        if answers.distinct is None:
            continue
        cells = [""] * len(budgets) if answers.ess is None else [_mean_of(answers.ess, b) for b in budgets]
        vetoed = "" if answers.vetoed is None else f"{answers.vetoed.mean():.1f}"
        yield "| " + " | ".join([name, str(answers.size), f"{answers.distinct.mean():.1f}", vetoed, *cells]) + " |"


def _mean_of(values: FloatArray, budget: int) -> str:
    """Return the mean over prompts and seeds at a budget, of those that have one."""
    told = values[:, :, budget - 1 : budget]
    return f"{np.nanmean(told):.1f}" if np.isfinite(told).any() else ""
