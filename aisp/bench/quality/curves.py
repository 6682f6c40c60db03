"""Proxy and gold along the distance from the base model, and how far the one has left the other.

The distance is d = sqrt(KL) as in Gao et al. (arXiv 2210.10760, section 2), in sqrt(nats). Of best-of-n the KL is taken
as log n - (n - 1)/n, the analytic form there: exact without ties, else a bound. Of a search it is an estimate: the KL
that steering spent along the returned answers, and that bound for the selection among all responses. A search that
restarts from chosen prefixes selects more than once, and may draw at another temperature than plain samples; neither is
counted, so that its curve is comparable by budget, and by distance only roughly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aisp.bench.quality.answers import BUDGETS
from aisp.bench.quality.report import Report
from aisp.records import FloatArray

_STEPS = 1000  # of the integrals


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Proxy and gold of the returned answers at rising budgets, as gains over one plain sample.

    Args:
        budgets: Responses, shape (points,).
        distance: sqrt(KL) to the base model, in sqrt(nats), likewise.
        proxy: Gain in the reward, in the prompt's standard deviations over plain samples, likewise.
        gold: Gain in the gold reward, in its own.
    """

    budgets: tuple[int, ...]
    distance: FloatArray
    proxy: FloatArray
    gold: FloatArray

    @property
    def drop(self) -> float:
        """Return how far gold is below its peak at the last budget, in standard deviations; 0 at the peak."""
        return float(self.gold.max() - self.gold[-1])

    @property
    def peak(self) -> int:
        """Return the budget at which gold is highest."""
        return self.budgets[int(self.gold.argmax())]

    @property
    def degree(self) -> float:
        """Return the degree of over-optimisation: the area between fitted gold and proxy, by that under gold.

        gamma = int_0^k |f - g| / int_0^k f, where f is gold, g the proxy, each fitted as x (a - b x) by least squares,
        and k the greatest distance (arXiv 2505.12763, as summaries of it give it; the form of best-of-n in Gao et al.).
        0 where gold follows the proxy, above it where it falls behind; NaN where gold as fitted gains nothing. The
        summaries call x the KL; it is its root here, of which the form was fitted in Gao et al.
        """
        if not np.isfinite([self.gold, self.proxy]).all():
            return float("nan")
        x = np.linspace(0.0, self.distance[-1], _STEPS)
        f, g = (_fitted(self.distance, values, x) for values in (self.gold, self.proxy))
        area = float(np.trapezoid(f, x))
        return float(np.trapezoid(np.abs(f - g), x)) / area if area > 0 else float("nan")


def curve(report: Report, name: str, gold: str) -> Curve:
    """Return a way of answering's curve.

    Args:
        report: The report.
        name: Among its answers, the baseline too.
        gold: A gold measure of it.
    """
    answers = report.answers[name]
    told = np.asarray(
        np.isfinite(answers.measures["reward"]).any((0, 1))
    )  # a rule has no figure below the least budget
    budgets = tuple(n for n in (1, 2, 4, *BUDGETS) if n <= answers.size and told[n - 1])
    places = np.array(budgets, dtype=int) - 1
    gains = []
    for measure in ("reward", gold):
        plain = report.answers[report.baseline].measures[measure][:, :, :1]
        gain = (answers.measures[measure][:, :, places] - plain) / report.unit(measure)[:, None, None]
        known = np.isfinite(gain).all((1, 2))
        gains.append(gain[known].mean((0, 1)) if known.any() else np.full(len(budgets), np.nan))
    n = np.array(budgets, dtype=float)
    selection = np.log(n) - (n - 1) / n
    steering = np.nan_to_num(answers.measures["kl_to_base"][:, :, places]).mean((0, 1))
    return Curve(budgets=budgets, distance=np.sqrt(steering + selection), proxy=gains[0], gold=gains[1])


def _fitted(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Return x (a - b x), fitted by least squares, at some places."""
    design = np.stack([x, x * x], axis=1)
    (a, b), *_ = np.linalg.lstsq(design, y, rcond=None)
    return np.asarray(at * (a + b * at))
