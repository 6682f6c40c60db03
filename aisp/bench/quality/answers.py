"""What each way of answering measures after every number of responses, read from the benchmark's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisp.bench.quality.chosen import pool_order
from aisp.bench.quality.reading import MEASURED, OUTSIDE, PlainRange, held_out_shares
from aisp.bench.quality.runs import Quality, Row
from aisp.bench.quality.statistics import chosen_probabilities, diversity
from aisp.records import FloatArray

OF_TEXTS = ("reward", "surprisal", "diversity", "words", "kl_to_base")
MEASURES = (*OF_TEXTS, *MEASURED, *OUTSIDE)
BUDGETS = (8, 16, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the returned answers measure; place n - 1 of the last axis is after n responses.

    Args:
        measures: By name, shape (prompts, seeds, responses). Surprisal is in nats a token under the base model; how an
            answer reads is told in `aisp.bench.quality.reading`.
        forward_tokens: Spent so far, shape (prompts, seeds, responses).
        seconds: Likewise, generation and scoring; each run shared the machine with others in flight.
        distinct: Different texts among all responses of a run, shape (prompts, seeds); None where it isn't one run.
        vetoed: Responses of a run that were refused, likewise.
        ess: Effective sample size of the weights behind each response, shape (prompts, seeds, responses), NaN where
            there are none; None where nothing is weighted.
    """

    measures: dict[str, FloatArray]
    forward_tokens: FloatArray
    seconds: FloatArray
    distinct: FloatArray | None = None
    vetoed: FloatArray | None = None
    ess: FloatArray | None = None

    @property
    def size(self) -> int:
        """Responses of a run."""
        return int(self.forward_tokens.shape[-1])

    def of(self, prompts: NDArray[np.bool_]) -> Answers:
        """Return what some of the prompts' answers measure."""
        return Answers(
            measures={name: values[prompts] for name, values in self.measures.items()},
            forward_tokens=self.forward_tokens[prompts],
            seconds=self.seconds[prompts],
            distinct=None if self.distinct is None else self.distinct[prompts],
            vetoed=None if self.vetoed is None else self.vetoed[prompts],
            ess=None if self.ess is None else self.ess[prompts],
        )

    def mean(self, measure: str) -> FloatArray:
        """Return a measure's mean over prompts and seeds, shape (responses,)."""
        return np.asarray(self.measures[measure].mean((0, 1)))

    def reaches(self, reward: float) -> int | None:
        """Return the least number of responses whose mean reward is at least this; None if none is."""
        n = first_reaching(self.mean("reward")[None], np.array([reward]))[0]
        return int(n) if np.isfinite(n) else None


def first_reaching(curves: FloatArray, goals: FloatArray) -> FloatArray:
    """Return after how many responses each curve is at its goal, inf where it isn't.

    Args:
        curves: Shape (curves, responses).
        goals: Shape (curves,).
    """
    reached = curves >= goals[:, None]
    return np.where(reached.any(1), reached.argmax(1) + 1.0, np.inf)


def best_of_n(quality: Quality, plain: str, ruler: str | None = None) -> Answers:
    """Return what the best of n plain samples measures, in expectation over the pool: the seeds are all alike.

    Args:
        quality: The benchmark, run.
        plain: How the samples are drawn.
        ruler: The way of sampling whose range tells what is typical; None takes the same.
    """
    pools = [_Pool(quality, plain, prompt, ruler or plain) for prompt in range(len(quality.prompts))]

    def repeated(values: Sequence[Any]) -> FloatArray:
        return np.repeat(np.array(values)[:, None], len(quality.seeds), axis=1)

    names = (*MEASURES, *quality.held_out)
    drawn = np.arange(1, _size(quality) + 1)
    return Answers(
        measures={name: repeated([_expected(pool.shares, pool.figures[name]) for pool in pools]) for name in names},
        forward_tokens=repeated([pool.forward_tokens * drawn for pool in pools]),
        seconds=repeated([pool.seconds * drawn for pool in pools]),
        distinct=repeated([pool.distinct for pool in pools]) if len(drawn) == quality.pool_size else None,
        vetoed=repeated([float(np.isnan(pool.rewards).sum()) for pool in pools]),
    )


def beginning_alike(quality: Quality, plain: str, name: str, alone: Answers) -> Answers:
    """Return what best-of-n measures whose first samples are a strategy's first round: its luck is no difference then.

    Args:
        quality: The benchmark, run.
        plain: How the samples are drawn.
        name: A strategy whose first round is drawn likewise (`Quality.begins_plainly`).
        alone: `best_of_n` of the same samples, whose costs these have.
    """
    names = (*MEASURES, *quality.held_out)
    found = {measure: np.empty_like(alone.measures[measure]) for measure in names}
    for i in range(len(quality.prompts)):
        pool = _Pool(quality, plain, i, plain)
        for s, seed in enumerate(quality.seeds):
            for measure, values in _continued(_Run(quality, plain, name, i, seed), pool, names).items():
                found[measure][i, s] = values
    return replace(alone, measures=found)


def by_rule(quality: Quality, plain: str, rule: str) -> Answers:
    """Return what a selection rule takes of n plain samples, one order of the pool a seed.

    Between the budgets of the report a figure is that of the budget before.
    """
    selection, names = quality.rules[rule], (*MEASURES, *quality.held_out)
    size = _size(quality)
    shape = (len(quality.prompts), len(quality.seeds), size)
    found = {name: np.full(shape, np.nan) for name in names}
    tokens, seconds = np.empty(shape), np.empty(shape)
    for i in range(len(quality.prompts)):
        pool = _Pool(quality, plain, i, plain)
        tokens[i], seconds[i] = (cost * np.arange(1, size + 1) for cost in (pool.forward_tokens, pool.seconds))
        for s, seed in enumerate(quality.seeds):
            order = pool_order(quality, i, seed)
            for n in (budget for budget in BUDGETS if budget <= size):
                mine = order[:n]
                rewards = np.where(np.isnan(pool.rewards), -np.inf, pool.rewards)[mine]
                usable = np.isfinite(rewards).any()
                share = selection.probabilities(rewards) if usable else np.full(n, np.nan)
                for name in names:
                    found[name][i, s, n - 1 :] = _expected(share, pool.figures[name][mine])
    return Answers(measures=found, forward_tokens=tokens, seconds=seconds)


def searched(quality: Quality, name: str, ruler: str) -> Answers:
    """Return what a strategy's best response so far measures; `ruler` as for `best_of_n`."""
    names = (*MEASURES, *quality.held_out)
    shape = (len(quality.prompts), len(quality.seeds), quality.budget)
    found = {measure: np.empty(shape) for measure in names}
    tokens, seconds, ess = np.empty(shape), np.empty(shape), np.empty(shape)
    distinct, vetoed = np.empty(shape[:2]), np.empty(shape[:2])
    for i in range(len(quality.prompts)):
        for s, seed in enumerate(quality.seeds):
            run = _Run(quality, ruler, name, i, seed)
            tokens[i, s], seconds[i, s] = np.cumsum(run.row["forward_tokens"]), run.row["seconds_at"]
            distinct[i, s], vetoed[i, s], ess[i, s] = run.row["distinct"], run.row["vetoed"], _ess(run.row)
            for measure, values in run.best_so_far(quality.budget, names).items():
                found[measure][i, s] = values
    return Answers(measures=found, forward_tokens=tokens, seconds=seconds, distinct=distinct, vetoed=vetoed, ess=ess)


def _size(quality: Quality) -> int:
    """Return how many plain samples best-of-n is told of at most."""
    return min(max(BUDGETS), quality.pool_size)


class _Pool:
    """A prompt's plain samples: their rewards (NaN where vetoed), figures, and mean cost of one."""

    def __init__(self, quality: Quality, plain: str, prompt: int, ruler: str) -> None:
        row = quality.pool(plain, prompt)
        self.rewards = np.array(quality.scores(plain, prompt, quality.reward))
        self.figures: dict[str, FloatArray] = {
            "reward": self.rewards,
            "surprisal": -np.array(row["log_probs"]) / np.maximum(row["tokens"], 1),
            "diversity": np.array([diversity(text) for text in row["texts"]]),
            "words": np.array([len(text.split()) for text in row["texts"]], dtype=float),
            "kl_to_base": np.zeros(len(self.rewards)),
            **_readings(row),
            **_outside(quality, plain, prompt, ruler),
            **{k: np.array(quality.scores(plain, prompt, r)) for k, r in quality.held_out.items()},
        }
        self._size = _size(quality)
        self.distinct = len(set(row["texts"]))
        self.forward_tokens = float(np.mean(row["forward_tokens"]))
        scoring = quality.scoring_seconds(plain, prompt, quality.reward)
        self.seconds = (row["seconds"] + scoring) / len(self.rewards)

    @cached_property
    def shares(self) -> FloatArray:
        """How probable each sample is to be the best of n, shape (n, samples)."""
        return np.array([chosen_probabilities(self.rewards, n) for n in range(1, self._size + 1)])


class _Run:
    """A search of a prompt, and what its best responses measure."""

    def __init__(self, quality: Quality, ruler: str, name: str, prompt: int, seed: int) -> None:
        self.row = quality.search(name, prompt, seed)
        typical = PlainRange.of(_readings(quality.pool(ruler, prompt)))
        outside = {key: quality.found_scores(name, prompt, seed, r) for key, r in quality.held_out.items()}
        self._figures = [
            _figures(step, typical) | {key: values[i] for key, values in outside.items()}
            for i, step in enumerate(self.row["best"])
        ]

    def best_so_far(self, size: int, names: Sequence[str]) -> dict[str, FloatArray]:
        """Return what the best response measures after each of the first so many; NaN before there is one."""
        found = {name: np.full(size, np.nan) for name in names}
        for step, figures in zip(self.row["best"], self._figures, strict=True):
            for name in names:
                found[name][step["drawn"] - 1 :] = figures[name]
        return found


def _readings(pool: Row) -> dict[str, FloatArray]:
    """Return how the samples of a pool read, by name; NaN where one has no tokens."""
    return {name: np.array(pool["reading"][name], dtype=float) for name in MEASURED}


def _outside(quality: Quality, plain: str, prompt: int, ruler: str) -> dict[str, FloatArray]:
    """Return which samples of a pool are outside of the range of plain samples, each judged by others."""
    readings = _readings(quality.pool(plain, prompt))
    if plain == ruler:
        return held_out_shares(readings)
    typical = PlainRange.of(_readings(quality.pool(ruler, prompt)))
    judged = [typical.outside(dict(zip(readings, one, strict=True))) for one in zip(*readings.values(), strict=True)]
    return {name: np.array([one[name] for one in judged]) for name in OUTSIDE}


def _continued(run: _Run, pool: _Pool, names: Sequence[str]) -> dict[str, FloatArray]:
    """Return what best-of-n measures that begins with a search's first plain samples, and goes on with a pool's.

    Args:
        run: The search.
        pool: The prompt's.
        names: Of the measures.

    Returns:
        Of each, shape (n,).
    """
    size, first = len(pool.shares), run.row["plain"]
    found = run.best_so_far(min(size, first), names)
    if size > first:
        best = np.nan_to_num(found["reward"][-1], nan=-np.inf)
        better = np.where(pool.rewards > best, pool.shares[: size - first], 0.0)
        others = 1.0 - better.sum(1, keepdims=True)  # how probable none of the pool's is better
        for name in names:
            values = np.append(pool.figures[name], found[name][-1])
            found[name] = np.append(found[name], _expected(np.hstack([better, others]), values))
    return found


def _ess(row: Row) -> FloatArray:
    """Return the effective sample size after each response's round."""
    return _of_each(row, [np.nan if ess is None else ess for ess in row["ess"]])


def _of_each(row: Row, of_rounds: Sequence[float]) -> FloatArray:
    """Return for each response what is given for its round."""
    return np.repeat(np.array(of_rounds, dtype=float), [r["responses"] for r in row["rounds"]])


def _figures(step: dict[str, Any], typical: PlainRange) -> dict[str, float]:
    reading = {name: np.nan if value is None else float(value) for name, value in step["reading"].items()}
    return {
        "reward": step["reward"],
        "surprisal": -step["log_prob"] / max(step["tokens"], 1),
        "diversity": diversity(step["text"]),
        "words": len(step["text"].split()),
        "kl_to_base": step["kl_to_base"],
        **reading,
        **typical.outside(reading),
    }


def _expected(shares: FloatArray, values: FloatArray) -> FloatArray:
    """Return the mean of values of these shares, shape shares.shape[:-1], of those that are not NaN."""
    known = np.where(np.isnan(values), 0.0, shares)
    with np.errstate(invalid="ignore"):
        return np.asarray(known @ np.nan_to_num(values) / known.sum(-1))
