"""What the benchmark's rows say: strategies and baseline side by side, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aisp.bench.quality.answers import BUDGETS, Answers, beginning_alike, best_of_n, by_rule, first_reaching, searched
from aisp.bench.quality.runs import Quality
from aisp.bench.quality.statistics import Difference, paired, resampled
from aisp.errors import ConfigurationError
from aisp.records import FloatArray
from aisp.rewards import Reward

_NO_ANSWER = -1e300  # below any goal, where every response so far was vetoed
_UNIT_OF_TIME = 16  # plain samples whose seconds are the unit of equal seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualSeconds:
    """Both sides after equal seconds, over prompts where both have an answer; a pair is ours and the baseline's.

    Args:
        responses: Drawn by then.
        rewards: Of the best by then.
        difference: Of the rewards, in the prompt's standard deviations.
        all_drawn: Whether the baseline had no more samples on some prompt: it would have had more.
    """

    responses: tuple[float, float]
    rewards: tuple[float, float]
    difference: Difference
    all_drawn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Baseline and strategies side by side; `tables.as_markdown` and `picture.draw` show them.

    Args:
        baseline: The name among `answers` of what the rest is compared with.
        answers: By name.
        beside: The baseline with the first round of a strategy, by that one's name; without, it is that of `answers`.
        spread: Standard deviation of the reward over each prompt's plain samples; NaN where all are equal.
        held_out: Names of the measures that were not optimised.
        gold_spread: The names among them that are gold, with their standard deviations as in `spread`.
        left_out: Prompts that aren't in it, since one side had no response that could be returned.
    """

    baseline: str
    answers: dict[str, Answers] = field(repr=False)
    spread: FloatArray = field(repr=False)
    beside: dict[str, Answers] = field(default_factory=dict, repr=False)
    held_out: tuple[str, ...] = field(default=())
    gold_spread: Mapping[str, FloatArray] = field(default_factory=dict, repr=False)
    left_out: int = 0

    @property
    def others(self) -> dict[str, Answers]:
        return {name: answers for name, answers in self.answers.items() if name != self.baseline}

    def compared(self, name: str) -> Answers:
        """Return the baseline as it is compared with a strategy."""
        return self.beside.get(name, self.answers[self.baseline])

    @property
    def gold(self) -> tuple[str, ...]:
        """Return the names of the gold measures."""
        return tuple(self.gold_spread)

    def unit(self, measure: str) -> FloatArray:
        """Return a measure's standard deviation over each prompt's plain samples: of the reward or a gold one.

        Raises:
            ValueError: Another measure, which has none.
        """
        if measure == "reward":
            return self.spread
        if measure not in self.gold_spread:
            raise ValueError(f"{measure} has no unit; expected one of {', '.join(('reward', *self.gold))}")
        return self.gold_spread[measure]

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
        return self._paired(ours[:, :, budget - 1] - theirs[:, :, budget - 1], measure if standardised else None)

    def at_equal_reward(
        self, name: str, budget: int, measure: str, *, standardised: bool = False
    ) -> tuple[int, Difference] | None:
        """Return a strategy's measure minus the baseline's where both have the baseline's mean reward at a budget.

        Returns:
            The number of responses after which the strategy's mean reward is first that high, and the difference; None
            where it never is.
        """
        ours, theirs = self.answers[name], self.compared(name)
        if (n := ours.reaches(float(theirs.mean("reward")[budget - 1]))) is None:
            return None
        gaps = ours.measures[measure][:, :, n - 1] - theirs.measures[measure][:, :, budget - 1]
        return n, self._paired(gaps, measure if standardised else None)

    def at_equal_seconds(self, name: str, times: float) -> EqualSeconds:
        """Return what both sides have after so many times the seconds of the baseline's best of 16.

        Args:
            name: A strategy.
            times: Of those seconds, each prompt's own. There have to be so many samples in the baseline.
        """
        sides = (self.answers[name], self.compared(name))
        limits = sides[1].seconds[:, :, _UNIT_OF_TIME - 1] * times
        (ours, own), (theirs, other) = (_within(answers, limits) for answers in sides)
        both = np.isfinite(ours + theirs).all(1)
        return EqualSeconds(
            responses=(_mean(own[both]), _mean(other[both])),
            rewards=(_mean(ours[both]), _mean(theirs[both])),
            difference=self._paired(ours - theirs, "reward"),
            all_drawn=bool((other >= sides[1].size).any()),
        )

    @property
    def timed(self) -> bool:
        """Return whether the baseline has the samples whose seconds are the unit of equal seconds."""
        return self.answers[self.baseline].size >= _UNIT_OF_TIME

    def _paired(self, gaps: FloatArray, unit: str | None) -> Difference:
        return paired((gaps if unit is None else gaps / self.unit(unit)[:, None]).tolist())

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


def report(quality: Quality, baseline: str) -> Report:
    """Read what was run.

    Args:
        quality: The benchmark, run.
        baseline: Name of the plain sampling that the rest is compared with.

    Raises:
        ConfigurationError: No prompt has an answer on every side.
    """
    answers = {f"best_of_n, {name}": best_of_n(quality, name, baseline) for name in quality.plain}
    answers |= {name: by_rule(quality, baseline, name) for name in quality.rules}
    answers |= {name: searched(quality, name, baseline) for name in quality.strategies}
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
        spread=_spreads(quality, baseline, quality.reward)[answered],
        held_out=tuple(quality.held_out),
        gold_spread={name: _spreads(quality, baseline, quality.held_out[name])[answered] for name in quality.gold},
        left_out=int(np.count_nonzero(~answered)),
    )


def _within(answers: Answers, limits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the reward of the best response within a time, and how many there are; NaN where there is none.

    Args:
        answers: A way of answering's.
        limits: In seconds, shape (prompts, seeds).

    Returns:
        Both of shape (prompts, seeds).
    """
    drawn = (answers.seconds <= limits[:, :, None]).sum(2)
    last = np.maximum(drawn - 1, 0)
    rewards = np.take_along_axis(answers.measures["reward"], last[:, :, None], axis=2)[:, :, 0]
    return np.where(drawn > 0, rewards, np.nan), drawn.astype(float)


def _mean(values: FloatArray) -> float:
    """Return the mean; NaN of none."""
    return float(values.mean()) if values.size else float("nan")


def _spreads(quality: Quality, plain: str, reward: Reward) -> FloatArray:
    """Return a reward's standard deviation over the plain samples of each prompt."""
    return np.array([_spread(quality.scores(plain, i, reward)) for i in range(len(quality.prompts))])


def _spread(rewards: Sequence[float]) -> float:
    """Return the standard deviation of a pool's usable rewards; NaN where all are equal, or fewer than two."""
    usable = np.array(rewards)[np.isfinite(rewards)]
    return float(usable.std(ddof=1)) if usable.size and np.ptp(usable) > 0 else float("nan")
