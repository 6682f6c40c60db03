"""Adaptive importance sampling conditioned on the prefix: restart from good responses, tilted towards the reward.

The target is q*(y) proportional to p(y) exp(r(y)/lambda). The paper's proposal is open-loop: a mean found behind one
prefix is applied behind another. Here a round is drawn from both kinds of evidence:

    parent  y_j, one of all responses so far, with weight w_j proportional to exp(r_j/lambda) (ESS = `parents`)
    cut     c, drawn together with it, in proportion to that weight, to the entropy of the parent's token at c, and to
            the improvement expected behind y_j[:c] (`tilted_restart.improvement`); y_j[:c] is kept, at no cost
    suffix  y_t ~ softmax(W(z_t + u)/T) for t >= c, where y_c is none of the tokens that were tried there, with
            u = slope/lambda' of the linear reward (`tilted_restart.linear`)

The first parents are plain samples, drawn as best-of-n draws them: hotter than restarts, so that they differ.

Parents carry what is known of a prefix (population Monte Carlo on the response tree). Rewards that tie for best can't
tell parents apart, so a share of the round then starts fresh: like plain samples, but never one that was drawn before,
and preferably where little was tried. If all rewards tie, the whole round starts fresh. Until something is found the
search is best-of-n without replacement.

The tilt carries what is known of tokens, whatever their prefix. Its strength is `tilt_nats` of KL a response, at most
the parents' entropy (a model that is led away from what it knows by heart stutters), times the share of the reward's
variance that the linear model predicts out of sample. A reward that is not linear in tokens is left to the restarts.
The true cost of the tilt is measured in every round and corrects the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import Capability, FloatArray, Proposal, Rollout, Sampling, Score, Tokens
from aisp.strategies.base import Info, SearchContext
from aisp.strategies.best_of_n import DEFAULT_SAMPLING
from aisp.strategies.tilted_restart.linear import fit_linear
from aisp.strategies.tilted_restart.restarts import Restarts, Start, restarts_from
from aisp.strategies.weights import effective_sample_size, solve_reward_temperature

# Ratio of a tilt's measured KL to the KL that the spread of the fitted rewards predicts. It is below 1, since much of
# that spread lies between prefixes and not at a token's draw: 0.03 to 0.1 on SmolLM2-135M, so the first tilt is gentle.
_FIRST_RATIO = 0.2
# The correction's bounds: beyond both, by a factor of three and more, of any ratio that was measured. They keep one odd
# round, of a few short suffixes, from silencing the tilt or from letting it loose.
_LEAST_RATIO, _GREATEST_RATIO = 0.01, 20.0
# Most plain samples before the first restart, and their share of a small budget. A linear fit and a choice of parents
# need a few; every further one is spent at best-of-n's pace.
_PLAIN, _PLAIN_SHARE = 16, 4
# A round of restarts is half as large as the number of responses known, so that each rests on news, and no smaller than
# the least. Small rounds know more of where to restart from; large ones decode more rows a step.
_LEAST_ROUND, _KNOWN_PER_ROUND = 8, 2
# A round in which more than this share starts fresh is drawn as plain samples are: hotter, and without a tilt, which
# would be fitted to rewards that are mostly tied.
_MOSTLY_FRESH = 0.5
# Rewards beyond 2^256 either way are scaled before they are squared: float64 ends at 2^1024.
_LARGE_EXPONENT = 256
# Restarts make responses differ, so that their tokens can be colder than those of plain samples.
_SAMPLING = Sampling(temperature=0.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A response with its reward."""

    rollout: Rollout
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltedRestartState:
    """The population, the tilt, and which round comes next.

    Args:
        tilt_nats: Upper limit of the tilt, in nats: the strategy's own, held to the request's `kl_budget`.
        population: Responses that have a reward.
        drawn: Every response that was drawn.
        restarts: How the next round's responses start; None if they are written from the beginning.
        shift: u, float32 of shape (1, dim); None for no tilt.
        expected_nats: Predicted cost of the shift, in nats a token.
        kl_ratio: Ratio of the measured cost of tilts to the predicted one.
    """

    context: SearchContext
    tilt_nats: float
    population: tuple[Member, ...] = ()
    drawn: tuple[Tokens, ...] = ()
    restarts: Restarts | None = None
    shift: NDArray[np.float32] | None = None
    expected_nats: float = 0.0
    kl_ratio: float = _FIRST_RATIO
    round_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltedRestart:
    """Restart from prefixes of good responses, with the tokens tilted towards the reward.

    Args:
        sampling: How a restart's tokens are taken. Temperature 0 would draw the same suffix again and again.
        plain: How the tokens of plain samples are taken. With top_p or top_k it must equal `sampling`, which would
            otherwise give some of the samples no probability.
        parents: Effective number of responses to restart from (the ESS that lambda is solved for), at least 1.
            Towards 1, only the best response; large values ignore the rewards.
        tilt_nats: KL divergence of the tilt from the base model, in nats a response, for an entirely linear reward and
            responses of at least that entropy. 0 leaves the tilt out.

    Raises:
        ConfigurationError: A value outside its range.
    """

    name: ClassVar[str] = "tilted_restart"
    sampling: Sampling = _SAMPLING
    plain: Sampling = DEFAULT_SAMPLING
    parents: float = 2.0
    tilt_nats: float = 16.0

    def __post_init__(self) -> None:
        if self.sampling.truncated and self.plain != self.sampling:
            raise ConfigurationError(
                f"plain samples are drawn by {self.plain} and restarts by {self.sampling}, to which some tokens of the "
                "former are impossible; give both the same where there is top_p or top_k"
            )
        if not (math.isfinite(self.parents) and self.parents >= 1):
            raise ConfigurationError(f"parents is {self.parents}; expected a number >= 1")
        if not (math.isfinite(self.tilt_nats) and self.tilt_nats >= 0):
            raise ConfigurationError(f"tilt_nats is {self.tilt_nats}; expected a number >= 0 (0 for no tilt)")

    @property
    def needs(self) -> frozenset[Capability]:
        tilt: set[Capability] = {"shift", "bag"} if self.tilt_nats > 0 else set()
        return frozenset({"kept", "excluded", *tilt})

    def init(self, context: SearchContext) -> TiltedRestartState:
        if (self.sampling.greedy or self.plain.greedy) and context.budget > 1:
            raise ConfigurationError(
                f"{self.name} at temperature=0 would draw the same response {context.budget} times; give a "
                "temperature above 0, budget=1 for the greedy answer, or strategy='aisp', whose draws are greedy"
            )
        # Half of what a response may cost at most, since the tilt costs some responses more than others; and a block's
        # share of it.
        limit = math.inf if context.kl_budget is None else context.kl_budget / 2
        return TiltedRestartState(context=context, tilt_nats=min(self.tilt_nats, limit) * context.block_share)

    def propose(self, state: TiltedRestartState, n: int) -> tuple[Proposal, ...]:
        root = state.context.root_seed
        rng = np.random.default_rng([root, state.round_index])
        restarts = None if draws_plainly(len(state.population), state.context.budget) else state.restarts
        size = _plain_samples(state.context.budget) if restarts is None else len(state.drawn) // _KNOWN_PER_ROUND
        n = min(n, max(_LEAST_ROUND, size))
        starts = [Start()] * n if restarts is None else restarts.draw(n, rng)
        # All rows of a round are drawn by one law, since an estimate averages over them.
        plain = restarts is None or restarts.fresh_share > _MOSTLY_FRESH
        return tuple(
            Proposal(
                seed=row_seed(root, state.round_index, row),
                sampling=self.plain if plain else self.sampling,
                prior=self.sampling,
                kept=start.kept,
                excluded=start.excluded,
                shift=None if plain else state.shift,
                measures=frozenset({"bag"} if state.tilt_nats > 0 else ()),
                log_start=start.log_probability,
                retain=True,
            )
            for row, start in enumerate(starts)
        )

    def update(
        self,
        state: TiltedRestartState,
        proposals: Sequence[Proposal],
        rollouts: Sequence[Rollout],
        scores: Sequence[Score],
    ) -> tuple[TiltedRestartState, Info]:
        new = tuple(
            Member(rollout=rollout, reward=score.value)
            for rollout, score in zip(rollouts, scores, strict=True)
            if score.usable
        )
        state = replace(
            state,
            population=state.population + new,
            drawn=state.drawn + tuple(rollout.tokens for rollout in rollouts),
            round_index=state.round_index + 1,
        )
        restarts, temperature = restarts_from(
            state.drawn,
            [(member.rollout.tokens, member.reward) for member in state.population],
            lambda rewards: solve_reward_temperature(rewards, min(self.parents / len(rewards), 1.0)),
        )
        if state.tilt_nats > 0:
            state = self._tilted(self._corrected(state, proposals, rollouts), restarts)
        ess = None if restarts is None else effective_sample_size(restarts.weights)
        return replace(state, restarts=restarts), Info(ess=ess, reward_temperature=temperature)

    def _corrected(
        self, state: TiltedRestartState, proposals: Sequence[Proposal], rollouts: Sequence[Rollout]
    ) -> TiltedRestartState:
        """Correct the ratio by the last tilt's measured and predicted cost."""
        if state.expected_nats == 0 or all(proposal.shift is None for proposal in proposals):
            return state
        pairs = zip(proposals, rollouts, strict=True)
        drawn = np.concatenate([rollout.tokens.kl_to_base[len(proposal.kept) :] for proposal, rollout in pairs])
        if not drawn.size:
            return state
        ratio = state.kl_ratio * float(drawn.mean()) / state.expected_nats
        return replace(state, kl_ratio=min(max(ratio, _LEAST_RATIO), _GREATEST_RATIO))

    def _tilted(self, state: TiltedRestartState, restarts: Restarts | None) -> TiltedRestartState:
        """Fit the linear reward to the whole population, and tilt as far as it predicts."""
        known = [member for member in state.population if "bag" in member.rollout.measured]
        bags = np.array([member.rollout.measured["bag"] for member in known])
        linear = fit_linear(bags, _of_moderate_size(np.array([m.reward for m in known]))) if known else None
        if restarts is None or linear is None or linear.r_squared <= 0:
            return replace(state, shift=None)
        entropy = float(restarts.weights @ [parent.entropy.sum() for parent in restarts.parents])
        nats = min(state.tilt_nats, entropy) * linear.r_squared
        length = float(np.mean([len(member.rollout.tokens) for member in known]))
        shift = linear.tilt(nats / state.kl_ratio).astype(np.float32)[None]
        return replace(state, shift=shift, expected_nats=nats / length)


def _of_moderate_size(rewards: FloatArray) -> FloatArray:
    """Return rewards scaled by a power of two to where their squares are finite: a tilt knows their ratios only."""
    exponent = math.frexp(float(np.abs(rewards).max()))[1]
    return np.ldexp(rewards, -exponent) if abs(exponent) > _LARGE_EXPONENT else rewards


def draws_plainly(population: int, budget: int) -> bool:
    """Return whether the next round draws plain samples, given the number of usable responses so far."""
    return population < _plain_samples(budget)


def _plain_samples(budget: int) -> int:
    """Return the number of plain samples before the first restart."""
    return max(1, min(_PLAIN, budget // _PLAIN_SHARE))
