"""Adaptive importance sampling conditioned on the prefix: restart from good responses, tilted towards the reward.

The target is q*(y) proportional to p(y) exp(r(y)/lambda). The paper's proposal is open-loop: a mean found behind one
prefix is applied behind another. Here responses are drawn from both kinds of evidence:

    parent  y_j, one of all responses so far, with weight w_j proportional to exp(r_j/lambda) (ESS = `parents`)
    cut     c, drawn together with it, in proportion to that weight, to the entropy of the parent's token at c, and to
            the improvement expected behind y_j[:c] (`tilted_restart.improvement`); y_j[:c] is kept, at no cost
    suffix  y_t ~ softmax(W(z_t + u)/T) for t >= c, where y_c is none of the tokens that were tried there, with
            u = slope/lambda' of the linear reward (`tilted_restart.linear`)

The first parents are plain samples, drawn as best-of-n draws them: hotter than restarts, so that they differ.

Parents carry what is known of a prefix (population Monte Carlo on the response tree). Rewards that tie for best can't
tell parents apart, so a share then starts fresh: like plain samples, but never one that was drawn before, and
preferably where little was tried. If all rewards tie, everything starts fresh. Until something is found the search is
best-of-n without replacement. So it is where few tokens decide, and most of what the model would say was drawn.

The tilt carries what is known of tokens, whatever their prefix. Its strength is `tilt_nats` of KL a response, at most
the parents' entropy (a model that is led away from what it knows by heart stutters), times the share of the reward's
variance that the linear model predicts out of sample. A reward that is not linear in tokens is left to the restarts.
The true cost of the tilt is measured along every response and corrects those that come after it.

There are no rounds: the search is told of each response as it ends, and starts the next one at once. Only the first
restart waits, until enough plain samples have ended to choose a parent from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from aisp.errors import ConfigurationError
from aisp.noise import row_seed
from aisp.records import Capability, FloatArray, Proposal, Rollout, Sampling, Score, Tokens
from aisp.strategies.base import Info, SearchContext
from aisp.strategies.best_of_n import DEFAULT_SAMPLING
from aisp.strategies.tilted_restart.linear import fit_linear
from aisp.strategies.tilted_restart.restarts import Restarts, Start, restarts_from
from aisp.strategies.tilted_restart.tree import Explored
from aisp.strategies.weights import effective_sample_size, solve_reward_temperature

# Ratio of a tilt's measured KL to the KL that the spread of the fitted rewards predicts. It is below 1, since much of
# that spread lies between prefixes and not at a token's draw: 0.03 to 0.1 on SmolLM2-135M, so the first tilt is gentle.
_FIRST_RATIO = 0.2
# The correction's bounds: beyond both, by a factor of three and more, of any ratio that was measured. They keep one odd
# round, of a few short suffixes, from silencing the tilt or from letting it loose.
_LEAST_RATIO, _GREATEST_RATIO = 0.01, 20.0
# How far one response of average length moves that ratio. Told of one at a time, a full correction would multiply at
# each, and run away.
_CORRECTION = 0.1
# Plain samples before the first restart: a quarter of the budget, within bounds. A linear fit and a choice of parents
# need a few; every further one is spent at best-of-n's pace.
_FEWEST_PLAIN, _MOST_PLAIN, _PLAIN_SHARE = 8, 16, 4
# Share of the plain samples that have ended before the first restart.
_ENDED_SHARE = 0.5
# Where more than this share of responses starts fresh, they are drawn as plain samples are: hotter, and without a tilt,
# which would be fitted to rewards that are mostly tied.
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
    """The population, the tilt, and how often the search was told something.

    Args:
        tilt_nats: Upper limit of the tilt, in nats: the strategy's own, held to the request's `kl_budget`.
        population: Responses that have a reward.
        explored: The tree of every response that was drawn.
        restarts: How the next responses start; None if they are written from the beginning.
        shift: u, float32 of shape (1, dim); None for no tilt.
        predicted_nats: What the fit predicts the shift to cost, in nats a token, uncorrected.
        kl_ratio: Ratio of the measured cost of tilts to the predicted one.
        updates: How often it was told of responses.
    """

    context: SearchContext
    tilt_nats: float
    population: tuple[Member, ...] = ()
    explored: Explored = field(default_factory=Explored)
    restarts: Restarts | None = None
    shift: NDArray[np.float32] | None = None
    predicted_nats: float = 0.0
    kl_ratio: float = _FIRST_RATIO
    updates: int = 0

    @property
    def drawn(self) -> tuple[Tokens, ...]:
        """Every response that was drawn."""
        return self.explored.responses


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
    asynchronous: ClassVar[Literal[True]] = True
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

    def propose(self, state: TiltedRestartState, n: int, pending: Sequence[Proposal] = ()) -> tuple[Proposal, ...]:
        plain = _plain_samples(state.context.budget)
        begun, restarts = len(state.drawn) + len(pending), state.restarts
        if begun < plain:
            n, restarts = min(n, plain - begun), None
        elif len(state.population) < plain * _ENDED_SHARE:
            if pending:
                return ()
            restarts = None
        rng = np.random.default_rng([state.context.root_seed, state.updates])
        starts = [Start()] * n if restarts is None else restarts.draw(n, rng)
        plainly = restarts is None or restarts.fresh_share > _MOSTLY_FRESH
        shift = None if plainly else state.shift
        return tuple(
            Proposal(
                seed=row_seed(state.context.root_seed, state.updates, row),
                sampling=self.plain if plainly else self.sampling,
                prior=self.sampling,
                kept=start.kept,
                excluded=start.excluded,
                shift=shift,
                predicted_nats=0.0 if shift is None else state.predicted_nats,
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
            explored=state.explored.followed_by(rollout.tokens for rollout in rollouts),
            updates=state.updates + 1,
        )
        restarts, temperature = restarts_from(
            state.explored,
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
        """Move the ratio towards what these responses' tilts cost, as far as their tokens are evidence of it."""
        tilted = [(p, r) for p, r in zip(proposals, rollouts, strict=True) if p.predicted_nats > 0]
        drawn = [rollout.tokens.kl_to_base[len(proposal.kept) :] for proposal, rollout in tilted]
        lengths = [len(nats) for nats in drawn]
        predicted = sum(count * proposal.predicted_nats for count, (proposal, _) in zip(lengths, tilted, strict=True))
        if not predicted:
            return state
        length = float(np.mean([len(tokens) for tokens in state.drawn]))
        share = 1.0 - (1.0 - _CORRECTION) ** (sum(lengths) / length)
        measured = float(np.concatenate(drawn).sum()) / predicted
        ratio = state.kl_ratio + share * (measured - state.kl_ratio)
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
        predicted = nats / state.kl_ratio
        return replace(state, shift=linear.tilt(predicted).astype(np.float32)[None], predicted_nats=predicted / length)


def _of_moderate_size(rewards: FloatArray) -> FloatArray:
    """Return rewards scaled by a power of two to where their squares are finite: a tilt knows their ratios only."""
    exponent = math.frexp(float(np.abs(rewards).max()))[1]
    return np.ldexp(rewards, -exponent) if abs(exponent) > _LARGE_EXPONENT else rewards


def _plain_samples(budget: int) -> int:
    """Return the number of plain samples before the first restart."""
    return min(budget, max(_FEWEST_PLAIN, min(_MOST_PLAIN, budget // _PLAIN_SHARE)))
