"""Tables and pictures of the benchmark's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aisp.bench.quality.answers import (
    BUDGETS,
    MEASURES,
    Answers,
    beginning_alike,
    best_of_n,
    by_rule,
    first_reaching,
    searched,
)
from aisp.bench.quality.runs import Quality
from aisp.bench.quality.statistics import Difference, paired, resampled
from aisp.errors import ConfigurationError
from aisp.plot import new_figure, save_figure
from aisp.records import FloatArray

_NO_ANSWER = -1e300  # below any goal, where every response so far was vetoed


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Baseline and strategies side by side; `markdown()` and `plot()` show them.

    Args:
        baseline: The name among `answers` of what the rest is compared with.
        answers: By name.
        beside: The baseline with the first round of a strategy, by that one's name; without, it is that of `answers`.
        spread: Standard deviation of the reward over each prompt's plain samples; NaN where all are equal.
        held_out: Names of the measures that were not optimised.
        left_out: Prompts that aren't in it, since one side had no response that could be returned.
    """

    baseline: str
    answers: dict[str, Answers] = field(repr=False)
    spread: FloatArray = field(repr=False)
    beside: dict[str, Answers] = field(default_factory=dict, repr=False)
    held_out: tuple[str, ...] = field(default=())
    left_out: int = 0

    @property
    def others(self) -> dict[str, Answers]:
        return {name: answers for name, answers in self.answers.items() if name != self.baseline}

    def compared(self, name: str) -> Answers:
        """Return the baseline as it is compared with a strategy."""
        return self.beside.get(name, self.answers[self.baseline])

    def budgets(self, name: str | None = None) -> list[int]:
        """Return the budgets that are reported: of the baseline, or those that a strategy has beside it."""
        size = min(self.answers[key].size for key in (self.baseline, name or self.baseline))
        return [budget for budget in BUDGETS if budget <= size]

    def difference(self, name: str, budget: int, measure: str = "reward", *, standardised: bool = True) -> Difference:
        """Return a strategy's measure minus the baseline's at a budget.

        Args:
            name: A strategy.
            budget: Responses drawn on both sides.
            measure: One of the answers' measures.
            standardised: In units of the prompt's own standard deviation over plain samples.
        """
        ours, theirs = (answers.measures[measure] for answers in (self.answers[name], self.compared(name)))
        gaps = ours[:, :, budget - 1] - theirs[:, :, budget - 1]
        if not standardised:
            return paired(gaps.tolist())
        return paired((gaps / self.spread[:, None]).tolist())

    def markdown(self) -> str:
        """Return the report as Markdown tables."""
        blocks = (
            self._rewards(),
            self._differences(),
            self._reach(),
            self._at_equal_reward(),
            self._answers(),
            self._runs(),
        )
        text = "\n\n".join("\n".join(block) for block in blocks) + "\n"
        return text + (
            f"\nWithout an answer on one side, and left out: {self.left_out} prompts.\n" * bool(self.left_out)
        )

    def _rewards(self) -> Iterator[str]:
        budgets = self.budgets()
        yield "| " + " | ".join(["mean reward at budget", *map(str, budgets), "forward tokens", "seconds"]) + " |"
        yield _rule(budgets, 3)
        for name, answers in self.answers.items():
            mean = answers.mean("reward")
            cells = [f"{mean[b - 1]:.3f}" if b <= answers.size else "" for b in budgets]
            tokens, seconds = (cost[:, :, -1].mean() for cost in (answers.forward_tokens, answers.seconds))
            yield "| " + " | ".join([name, *cells, f"{tokens:.0f}", f"{seconds:.1f}"]) + " |"

    def _differences(self) -> Iterator[str]:
        head = f"| minus {self.baseline}, in its standard deviations | budget | difference | 95 % interval |"
        yield head + " one-sided bound | prompts |"
        yield "|---|---|---|---|---|---|"
        for name in self.others:
            for budget in self.budgets(name):
                d = self.difference(name, budget)
                figures = f"{d.mean:+.2f} | {d.low:+.2f} to {d.high:+.2f} | {d.bound:+.2f}" if d.prompts else " |  | "
                yield f"| {name} | {budget} | {figures} | {d.prompts} |"

    def reach(self, name: str) -> tuple[float, float, float]:
        """Return after how many responses a strategy has the baseline's mean reward at its end, inf if never.

        Returns:
            The number, and its 95 % interval over bootstrap draws of prompts.
        """
        of = (answers.measures["reward"] for answers in (self.answers[name], self.compared(name)))
        ours, theirs = (np.nan_to_num(rewards, nan=_NO_ANSWER).mean(1) for rewards in of)
        n = float(first_reaching(ours.mean(0)[None], theirs[:, -1].mean(keepdims=True))[0])
        drawn = first_reaching(resampled(ours), resampled(theirs[:, -1]))
        low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
        return n, float(low), float(high)

    def _reach(self) -> Iterator[str]:
        goal = f"to reach the baseline's at {self.answers[self.baseline].size}"
        yield f"| {goal} | that is | responses | 95 % interval | of its tokens | of its seconds |"
        yield "|---|---|---|---|---|---|"
        for name, answers in self.others.items():
            base = self.compared(name)
            n, low, high = self.reach(name)
            told, least, most = (f"{m:.0f}" if np.isfinite(m) else "not reached" for m in (n, low, high))
            pairs = ((answers.forward_tokens, base.forward_tokens), (answers.seconds, base.seconds))
            shares = [
                f"{ours[:, :, int(n) - 1].mean() / theirs[:, :, -1].mean():.2f}" if np.isfinite(n) else ""
                for ours, theirs in pairs
            ]
            yield f"| {name} | {base.mean('reward')[-1]:.3f} | {told} | {least} to {most} | {' | '.join(shares)} |"

    def _at_equal_reward(self) -> Iterator[str]:
        """Compare what else the answers measure where both sides' mean reward is that of the baseline at a budget."""
        yield "| at the reward of | baseline's responses | ours | measure | ours | baseline's | gap | 95 % interval |"
        yield "|---" * 8 + "|"
        for name, answers in self.others.items():
            base = self.compared(name)
            for budget in self.budgets()[-3:]:
                n = answers.reaches(float(base.mean("reward")[budget - 1]))
                if n is None:
                    continue
                for column in ("surprisal", "kl_to_base", "diversity", *self.held_out):
                    ours, theirs = answers.measures[column][:, :, n - 1], base.measures[column][:, :, budget - 1]
                    d = paired((ours - theirs).tolist())
                    means = f"{ours.mean():.3f} | {theirs.mean():.3f}"
                    gap = f"{d.mean:+.3f} | {d.low:+.3f} to {d.high:+.3f}"
                    yield f"| {name} | {budget} | {n} | {column} | {means} | {gap} |"

    def _answers(self) -> Iterator[str]:
        columns, last = (*MEASURES, *self.held_out), min(answers.size for answers in self.answers.values())
        yield f"| answers at budget {last} | " + " | ".join(columns) + " |"
        yield "|---" * (len(columns) + 1) + "|"
        for name, answers in self.answers.items():
            yield f"| {name} | " + " | ".join(f"{answers.mean(column)[last - 1]:.3f}" for column in columns) + " |"

    def _runs(self) -> Iterator[str]:
        """Tell how many of a run's responses differ, and what its weights were worth after each budget's round."""
        budgets = self.budgets()
        yield "| " + " | ".join(["of a run", "responses", "different", *(f"ESS after {b}" for b in budgets)]) + " |"
        yield _rule(budgets, 3)
        for name, answers in self.answers.items():
            if answers.distinct is None:
                continue
            cells = [""] * len(budgets) if answers.ess is None else [_mean_of(answers.ess, b) for b in budgets]
            yield "| " + " | ".join([name, str(answers.size), f"{answers.distinct.mean():.1f}", *cells]) + " |"

    def plot(self, path: Path) -> None:
        """Draw mean reward against responses and against forward tokens, and the paired differences."""
        figure = new_figure(12, 4.2)
        from matplotlib.ticker import NullFormatter  # optional, and there when the figure is

        curves, compute, gaps = figure.subplots(1, 3)
        for name, answers in self.answers.items():
            at = np.arange(4, answers.size + 1)
            mean, tokens = answers.mean("reward")[at - 1], answers.forward_tokens.mean((0, 1))[at - 1]
            (line,) = curves.plot(at, mean, label=name)
            compute.plot(tokens, mean, color=line.get_color())
            if name == self.baseline:
                gaps.axhline(0.0, color=line.get_color())
                continue
            if not (budgets := self.budgets(name)):
                continue
            found = [self.difference(name, budget) for budget in budgets]
            gaps.plot(budgets, [d.mean for d in found], color=line.get_color(), marker="o", ms=3)
            low, high = [d.low for d in found], [d.high for d in found]
            gaps.fill_between(budgets, low, high, color=line.get_color(), alpha=0.2, lw=0)
        curves.set(xlabel="responses", ylabel="mean reward of the answer", xscale="log")
        compute.set(xlabel="forward tokens", xscale="log")
        gaps.set(xlabel="responses", ylabel="reward minus best-of-n's, in its sd", xscale="log")
        for axes in (curves, compute, gaps):
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(3, len(self.answers)), frameon=False)
        save_figure(figure, path)


def report(quality: Quality, baseline: str) -> Report:
    """Read what was run.

    Args:
        quality: The benchmark, run.
        baseline: Name of the plain sampling that the rest is compared with.

    Raises:
        ConfigurationError: No prompt has an answer on every side.
    """
    answers = {f"best_of_n, {name}": best_of_n(quality, name) for name in quality.plain}
    answers |= {name: by_rule(quality, baseline, name) for name in quality.rules}
    answers |= {name: searched(quality, name) for name in quality.strategies}
    answered = np.all([np.isfinite(a.measures["reward"][:, :, -1]).all(1) for a in answers.values()], axis=0)
    if not answered.any():
        raise ConfigurationError("no prompt has an answer on every side; mend the reward, or veto less")
    alone = answers[f"best_of_n, {baseline}"]
    return Report(
        baseline=f"best_of_n, {baseline}",
        beside={
            name: beginning_alike(quality, baseline, name, alone).of(answered)
            for name in quality.strategies
            if quality.begins_plainly(name, baseline)
        },
        answers={name: a.of(answered) for name, a in answers.items()},
        spread=np.array([_spread(quality.scores(baseline, int(i), quality.reward)) for i in np.flatnonzero(answered)]),
        held_out=tuple(quality.held_out),
        left_out=int(np.count_nonzero(~answered)),
    )


def _mean_of(values: FloatArray, budget: int) -> str:
    """Return the mean over prompts and seeds at a budget, of those that have one."""
    told = values[:, :, budget - 1 : budget]
    return f"{np.nanmean(told):.1f}" if np.isfinite(told).any() else ""


def _spread(rewards: Sequence[float]) -> float:
    """Return the standard deviation of a pool's usable rewards; NaN where all are equal, or fewer than two."""
    usable = np.array(rewards)[np.isfinite(rewards)]
    return float(usable.std(ddof=1)) if usable.size and np.ptp(usable) > 0 else float("nan")


def _rule(budgets: Sequence[int], others: int) -> str:
    return "|---" * (len(budgets) + others) + "|"
