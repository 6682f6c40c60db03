"""Tables and pictures of the benchmark's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aisp.bench.quality.runs import Quality, Row
from aisp.bench.quality.statistics import Difference, chosen_probabilities, diversity, paired
from aisp.records import FloatArray

_MEASURES = ("reward", "surprisal", "diversity", "words", "kl_to_base")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one strategy's answers measure, for every budget.

    Args:
        budgets: Responses drawn.
        measures: By name, shape (prompts, seeds, budgets). Surprisal is in nats a token under the base model.
        forward_tokens: Shape (prompts, seeds, budgets).
        seconds: Of all its runs together, shape (prompts, seeds); each run shared the machine with others in flight.
    """

    budgets: tuple[int, ...]
    measures: dict[str, FloatArray]
    forward_tokens: FloatArray
    seconds: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Baseline and strategies side by side; `markdown()` and `plot()` show them."""

    baseline: str
    answers: dict[str, Answers]
    spread: FloatArray
    held_out: tuple[str, ...] = field(default=())

    def difference(self, name: str, at: int, measure: str = "reward", *, standardised: bool = True) -> Difference:
        """Return a strategy's measure minus the baseline's, at a place among the budgets.

        Args:
            name: A strategy.
            at: Place of the budget.
            measure: One of the answers' measures.
            standardised: In units of the prompt's own standard deviation over plain samples.
        """
        ours, theirs = self.answers[name].measures[measure], self.answers[self.baseline].measures[measure]
        gaps = ours[:, :, at] - theirs[:, :, at]
        return paired((gaps / self.spread[:, None] if standardised else gaps).tolist())

    def samples_to_reach(self, name: str, reward: float) -> int | None:
        """Return the least budget at which a strategy's mean reward is at least this; None if none is."""
        answers = self.answers[name]
        mean = answers.measures["reward"].mean((0, 1))
        return next((b for b, value in zip(answers.budgets, mean, strict=True) if value >= reward), None)

    def markdown(self) -> str:
        """Return the report as Markdown tables."""
        budgets = self.answers[self.baseline].budgets
        columns = (*_MEASURES, *self.held_out)
        lines = ["| mean reward at budget | " + " | ".join(map(str, budgets)) + " | forward tokens | seconds |"]
        lines.append("|---" * (len(budgets) + 3) + "|")
        for name, answers in self.answers.items():
            mean = answers.measures["reward"].mean((0, 1))
            tokens, seconds = answers.forward_tokens[:, :, -1].mean(), answers.seconds.mean()
            lines.append(f"| {name} | {_row(mean)} | {tokens:.0f} | {seconds:.1f} |")
        best = float(self.answers[self.baseline].measures["reward"].mean((0, 1))[-1])
        lines += ["", f"| minus {self.baseline}, in its standard deviations | budget | difference | 95 % interval |"]
        lines[-1] += f" one-sided bound | samples to reach {best:.3f} |"
        lines.append("|---|---|---|---|---|---|")
        for name in self.answers:
            if name == self.baseline:
                continue
            for at, budget in enumerate(budgets):
                d = self.difference(name, at)
                reach = self.samples_to_reach(name, best) if at == len(budgets) - 1 else ""
                interval = f"{d.low:+.2f} to {d.high:+.2f}"
                lines.append(f"| {name} | {budget} | {d.mean:+.2f} | {interval} | {d.bound:+.2f} | {reach} |")
        lines += ["", f"| answers at budget {budgets[-1]} | " + " | ".join(columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for name, answers in self.answers.items():
            lines.append(f"| {name} | {_row([answers.measures[m][:, :, -1].mean() for m in columns])} |")
        return "\n".join(lines) + "\n"

    def plot(self, path: Path) -> None:
        """Draw mean reward against samples and against forward tokens, and the paired differences."""
        from aisp.plot import new_figure

        figure = new_figure(12, 4.2)
        curves, compute, gaps = figure.subplots(1, 3)
        for name, answers in self.answers.items():
            mean = answers.measures["reward"].mean((0, 1))
            tokens = answers.forward_tokens.mean((0, 1))
            (line,) = curves.plot(answers.budgets, mean, marker="o", ms=3, label=name)
            compute.plot(tokens, mean, marker="o", ms=3, color=line.get_color())
            if name == self.baseline:
                gaps.axhline(0.0, color=line.get_color())
                continue
            found = [self.difference(name, at) for at in range(len(answers.budgets))]
            gaps.plot(answers.budgets, [d.mean for d in found], color=line.get_color())
            low, high = [d.low for d in found], [d.high for d in found]
            gaps.fill_between(answers.budgets, low, high, color=line.get_color(), alpha=0.2, lw=0)
        curves.set(xlabel="responses", ylabel="mean reward of the answer", xscale="log")
        compute.set(xlabel="forward tokens", xscale="log")
        gaps.set(xlabel="responses", ylabel=f"minus {self.baseline}, standard deviations", xscale="log")
        for axes in (curves, compute, gaps):
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(self.answers), frameon=False)
        figure.savefig(path, dpi=150)


def report(quality: Quality, budgets: Sequence[int], baseline: str) -> Report:
    """Read what was run.

    Args:
        quality: The benchmark, run.
        budgets: At which answers are compared; none above the pool's size or the searches' budget.
        baseline: Name of the plain sampling that the rest is compared with.
    """
    answers = {f"best_of_n, {name}": _best_of_n(quality, name, budgets) for name in quality.plain}
    answers |= {name: _searched(quality, name, budgets) for name in quality.strategies}
    pools = [quality.scores(baseline, prompt, quality.reward) for prompt in range(len(quality.prompts))]
    spread = np.array([np.nanstd(rewards, ddof=1) for rewards in pools])
    spread[spread == 0] = np.nan
    return Report(baseline=f"best_of_n, {baseline}", answers=answers, spread=spread, held_out=tuple(quality.held_out))


def _best_of_n(quality: Quality, plain: str, budgets: Sequence[int]) -> Answers:
    prompts, seeds = len(quality.prompts), len(quality.seeds)
    names = (*_MEASURES, *quality.held_out)
    values = {name: np.empty((prompts, seeds, len(budgets))) for name in names}
    tokens, seconds = np.empty((prompts, seeds, len(budgets))), np.empty((prompts, seeds))
    for i in range(prompts):
        pool = quality.pool(plain, i)
        rewards = np.array(quality.scores(plain, i, quality.reward))
        figures = {
            "reward": np.nan_to_num(rewards),
            "surprisal": -np.array(pool["log_probs"]) / np.maximum(pool["tokens"], 1),
            "diversity": np.array([diversity(text) for text in pool["texts"]]),
            "words": np.array([len(text.split()) for text in pool["texts"]], dtype=float),
            "kl_to_base": np.zeros(len(rewards)),
            **{k: np.nan_to_num(quality.scores(plain, i, reward)) for k, reward in quality.held_out.items()},
        }
        each = float(np.mean(pool["forward_tokens"]))
        for at, budget in enumerate(budgets):
            chosen = chosen_probabilities(rewards, budget)
            for name in names:
                values[name][i, :, at] = float(chosen @ figures[name])
            tokens[i, :, at] = each * budget
        seconds[i] = pool["seconds"] * budgets[-1] / len(rewards)
    return Answers(budgets=tuple(budgets), measures=values, forward_tokens=tokens, seconds=seconds)


def _searched(quality: Quality, name: str, budgets: Sequence[int]) -> Answers:
    prompts, seeds = len(quality.prompts), len(quality.seeds)
    names = (*_MEASURES, *quality.held_out)
    values = {measure: np.empty((prompts, seeds, len(budgets))) for measure in names}
    tokens, seconds = np.empty((prompts, seeds, len(budgets))), np.empty((prompts, seeds))
    for i in range(prompts):
        for s, seed in enumerate(quality.seeds):
            row = quality.search(name, i, seed)
            spent = np.cumsum(row["forward_tokens"])
            for at, budget in enumerate(budgets):
                figures = _figures(row, budget)
                for measure in names:
                    values[measure][i, s, at] = figures[measure]
                tokens[i, s, at] = spent[budget - 1]
            seconds[i, s] = row["seconds"]
    return Answers(budgets=tuple(budgets), measures=values, forward_tokens=tokens, seconds=seconds)


def _figures(row: Row, budget: int) -> dict[str, Any]:
    """Return what the best answer of the first `budget` responses measures."""
    best = [step for step in row["best"] if step["drawn"] <= budget][-1]
    return {
        "reward": best["reward"],
        "surprisal": -best["log_prob"] / max(best["tokens"], 1),
        "diversity": diversity(best["text"]),
        "words": len(best["text"].split()),
        "kl_to_base": best["kl_to_base"],
        **best["held_out"],
    }


def _row(values: Sequence[float] | FloatArray) -> str:
    return " | ".join(f"{value:.3f}" for value in values)
