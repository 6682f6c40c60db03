"""Tables of what a reader would say of the answers: gold, over-optimisation, pairs, loops; and of how long it waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aisp.bench.quality.curves import curve
from aisp.bench.quality.pairwise import WinRate
from aisp.bench.quality.reading import OUTSIDE
from aisp.bench.quality.report import Report
from aisp.bench.quality.statistics import Difference
from aisp.records import FloatArray

_TIMES = (1, 2, 3, 4, 6)  # the seconds of the baseline's best of 16
_READ = ("distinct_2", "longest_run", "in_loops", "repetition")


def gold_differences(report: Report) -> Iterator[str]:
    """Compare gold at equal reward and at equal responses."""
    if not report.gold:
        return
    yield (
        "**Gold beside proxy.** What nobody optimised, minus the baseline's, in the prompt's own standard deviations "
        "of it over plain samples: at equal proxy reward (ours after as many responses as have the baseline's mean "
        "reward; that number is taken as given by the intervals) and at equal responses.\n"
    )
    yield "| gold | strategy | at equal | baseline's responses | ours | difference | 95 % interval | bound | prompts |"
    yield "|---" * 9 + "|"
    for gold in report.gold:
        for name in report.others:
            for budget in report.budgets()[-3:]:
                if (found := report.at_equal_reward(name, budget, gold, standardised=True)) is not None:
                    yield f"| {gold} | {name} | reward | {budget} | {found[0]} | {_signed(found[1])} |"
            for budget in report.budgets(name):
                d = report.difference(name, budget, gold)
                yield f"| {gold} | {name} | responses | {budget} | {budget} | {_signed(d)} |"


def gold_curves(report: Report) -> Iterator[str]:
    """Tell proxy and gold along sqrt(KL), and how far they part."""
    for gold in report.gold:
        curves = {name: curve(report, name, gold) for name in report.answers}
        yield (
            f"**Over-optimisation, {gold}.** Gains over one plain sample in standard deviations, as sqrt(KL): proxy, "
            "gold. Of best-of-n the KL is log n - (n-1)/n; of a search it is an estimate: what steering spent, and "
            "that bound for its selection. The degree is the area between fitted gold and proxy by the area under "
            "gold (after arXiv 2505.12763; 0 where gold follows); the drop is that of gold from its peak, which "
            "noise alone makes above 0.\n"
        )
        budgets = report.budgets()
        yield "| | " + " | ".join([*(f"at {n}" for n in budgets), "degree", "gold's peak at", "drop since"]) + " |"
        yield "|---" * (len(budgets) + 4) + "|"
        for name, one in curves.items():
            at = {n: (d, p, g) for n, d, p, g in zip(one.budgets, one.distance, one.proxy, one.gold, strict=True)}
            cells = [f"{at[n][0]:.2f}: {at[n][1]:+.2f}, {at[n][2]:+.2f}" if n in at else "" for n in budgets]
            known = np.isfinite(one.gold).all() and len(one.gold)
            ends = [_or_none(one.degree), str(one.peak), f"{one.drop:.2f}"] if known else [""] * 3
            yield "| " + " | ".join([name, *cells, *ends]) + " |"
        yield ""


def win_rates(wins: Sequence[WinRate]) -> Iterator[str]:
    """Tell how often a judge of pairs takes our answer."""
    if not wins:
        return
    yield (
        "**Win rate.** A judge reads our answer beside best-of-n's in both orders. Ties count as half: equal texts, "
        "orders that disagree, a mean probability within 0.05 of a half. Leaning is the win rate by that mean alone, "
        "for judges that mostly take the first answer. At equal seconds best-of-n has as many samples as its pool's "
        "seconds allow in the search's.\n"
    )
    yield "| judge | strategy | at | best-of-n's | win rate | 95 % interval | bound | ties | leaning | 95 % interval |"
    yield "|---" * 10 + "|"
    for win in wins:
        r, lean = win.rate, win.leaning
        figures = [""] * 6
        if r.prompts:
            figures = [f"{r.mean:.2f}", f"{r.low:.2f} to {r.high:.2f}", f"{r.bound:.2f}", f"{win.ties:.0%}"]
            figures += [f"{lean.mean:.2f}", f"{lean.low:.2f} to {lean.high:.2f}"]
        yield "| " + " | ".join([win.judge, win.strategy, win.at, f"{win.responses:.0f}", *figures]) + " |"
    if any(win.short for win in wins):
        share = f"{max(win.short for win in wins):.0%}"
        yield f"\nIn up to {share} of the pairs at equal seconds the pool had fewer samples than there was time for."


def how_answers_read(report: Report) -> Iterator[str]:
    """Tell how much answers repeat, and how many are outside of the range of plain samples."""
    last = min(answers.size for answers in report.answers.values())
    yield (
        "**How answers read.** Means of what is returned, then the share of answers outside of the range of the same "
        "prompt's plain samples: a loop has a window of 12 tokens that surprises less than any of theirs, salad one "
        "that surprises more, and what repeats does so more than they (one outlier in sixteen left out each time). "
        "Best of 1 is a plain sample, judged by the others.\n"
    )
    yield f"| answers at budget {last} | " + " | ".join((*_READ, *OUTSIDE)) + " |"
    yield "|---" * (len(_READ) + len(OUTSIDE) + 1) + "|"
    shown = {"plain samples (best of 1)": (report.answers[report.baseline], 1)}
    shown |= {name: (answers, last) for name, answers in report.answers.items()}
    for name, (answers, n) in shown.items():
        read = [f"{answers.mean(column)[n - 1]:.3f}" for column in _READ]
        outside = [f"{answers.mean(column)[n - 1]:.1%}" for column in OUTSIDE]
        yield f"| {name} | " + " | ".join([*read, *outside]) + " |"


def equal_seconds(report: Report) -> Iterator[str]:
    """Compare rewards where both sides took as long."""
    if not report.timed or not report.others:
        return
    yield (
        "**At equal seconds.** Rewards after so many times the seconds of the baseline's best of 16. Best-of-n's "
        "time is its share of its pool's; a search's responses count once they are scored. These are seconds "
        "of one request alone only with `--concurrency 1`. Prompts without an answer by then are left out; `all` "
        "means that the pool has no more samples, though there was time.\n"
    )
    yield (
        "| strategy | times | responses | baseline's | reward | baseline's | difference | 95 % interval | bound | "
        "prompts |"
    )
    yield "|---" * 10 + "|"
    for name in report.others:
        for times in _TIMES:
            found = report.at_equal_seconds(name, times)
            if not found.difference.prompts:
                yield f"| {name} | {times} |  |  |  |  |  |  |  | 0 |"
                continue
            drawn = f"{found.responses[0]:.0f} | {found.responses[1]:.0f}{', all' * found.all_drawn}"
            rewards = f"{found.rewards[0]:.3f} | {found.rewards[1]:.3f}"
            yield f"| {name} | {times} | {drawn} | {rewards} | {_signed(found.difference)} |"


def _signed(d: Difference) -> str:
    figures = f"{d.mean:+.2f} | {d.low:+.2f} to {d.high:+.2f} | {d.bound:+.2f}" if d.prompts else " |  | "
    return f"{figures} | {d.prompts}"


def _or_none(value: float | FloatArray) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "none"
