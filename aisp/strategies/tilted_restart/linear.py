"""A linear model of a reward in pre-logit space.

A response is represented by its bag b = sum_t W[y_t] (`Rollout.measured`), and its reward is modelled as a + slope . b.
For this model the tilted distribution has a closed form: exp(reward/lambda) splits into one factor a token,
exp(slope . W[y_t]/lambda), which is the softmax of W(z_t + slope/lambda). The paper estimates the mean of the pre-logit
perturbation position by position from weighted noise; here it is one vector, the same behind every prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aisp.records import FloatArray

# Penalties to try, as shares of the largest eigenvalue of the bags' Gram matrix: from nearly an interpolation of all
# bags to nearly a constant, four a decade.
_PENALTIES = np.logspace(-4, 1, 21)
# With three responses, leave-one-out fits a line to two, and its error says nothing.
_FEWEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearReward:
    """A ridge regression of rewards on bags.

    Args:
        slope: Shape (dim,), the reward's unit per unit of pre-logit.
        r_squared: Share of the rewards' variance that is predicted out of sample (leave-one-out), at most 1; at most 0
            where a constant predicts as well.
        spread: Standard deviation of the fitted rewards, in the reward's unit.
    """

    slope: FloatArray
    r_squared: float
    spread: float

    def tilt(self, nats: float) -> FloatArray:
        """Return the shift of pre-logits whose KL divergence from the base model is about `nats` a response.

        To second order, tilting by slope . b / lambda moves the distribution by Var(slope . b) / (2 lambda^2).
        """
        if self.spread == 0:
            return np.zeros_like(self.slope)
        return np.asarray(self.slope * (np.sqrt(2.0 * nats) / self.spread))


def fit_linear(bags: FloatArray, rewards: FloatArray) -> LinearReward | None:
    """Fit by ridge regression, the penalty being the one of least leave-one-out error (Allen's PRESS).

    Args:
        bags: Shape (n, dim).
        rewards: Shape (n,), finite.

    Returns:
        None if there is nothing to learn from: fewer than four responses, or all rewards (or bags) equal.
    """
    n = len(rewards)
    if n < _FEWEST or np.ptp(rewards) == 0:
        return None
    centred, target = bags - bags.mean(0), rewards - rewards.mean()
    scale = np.abs(target).max()
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values = values.clip(min=0.0)
    if values[-1] == 0:
        return None
    target = target / scale
    along = vectors.T @ target
    penalties = _PENALTIES * values[-1]
    shrunk = 1.0 / (values[:, None] + penalties)  # for each eigenvector and penalty
    duals = vectors @ (along[:, None] * shrunk)
    leverages = vectors**2 @ (values[:, None] * shrunk) + 1.0 / n
    residuals = penalties * duals  # target - K dual
    errors = np.square(residuals / (1.0 - leverages)).sum(0)
    best = int(np.argmin(errors))
    of_mean = float(np.square(target).sum()) * (n / (n - 1)) ** 2  # the constant's own leave-one-out error
    slope = scale * (centred.T @ duals[:, best])
    return LinearReward(
        slope=slope, r_squared=1.0 - float(errors[best]) / of_mean, spread=float((centred @ slope).std(ddof=1))
    )
