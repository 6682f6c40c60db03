"""Every strategy keeps the contract, the rivals among them; and strategies that break it are found out."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import aisp
from aisp.bench.rivals import MISVO, Blockwise, Pessimism, QAlign, SoftBestOfN
from aisp.noise import gaussians, row_seed
from aisp.records import GREEDY, NO_TOKENS, Proposal, Sampling
from aisp.strategies import AISP, BestOfN, Info, TiltedRestart
from aisp.strategies.aisp import PAPER
from aisp.testing import StrategyContract
from aisp.testing.toy import DIM, Toy, ToyEngine


class NoisyEngine(ToyEngine):
    """Perturbs the pre-logits too, which then are near enough to greedy draws."""

    def rollout(self, prefix, proposals, limits, progress=None):
        drawn = super().rollout(prefix, [self._shifted(proposal) for proposal in proposals], limits)
        measured = {"natural_scale": 0.7, "unused_mean_dot": 0.25}
        return [
            replace(rollout, measured={name: measured[name] for name in proposal.measures})
            for rollout, proposal in zip(drawn, proposals, strict=True)
        ]

    def _shifted(self, proposal):
        positions = torch.arange(self.toy.depth)[None]
        total = proposal.scale * gaussians([proposal.seed], positions, DIM)[0].numpy()
        for term in proposal.mean:
            weights = [next((w for stop, w in term.spans if t < stop), 0.0) for t in range(self.toy.depth)]
            total = total + np.array(weights)[:, None] * gaussians([term.seed], positions, DIM)[0].numpy()
        return Proposal(seed=proposal.seed, sampling=Sampling(temperature=0.05), shift=total.astype(np.float32))


class TestBestOfN(StrategyContract):
    strategy, engine = BestOfN(), ToyEngine()
    others = (BestOfN(sampling=Sampling()),)


class TestTiltedRestart(StrategyContract):
    strategy, engine = TiltedRestart(), ToyEngine(Toy(ends=True))
    others = (TiltedRestart(parents=3), TiltedRestart(tilt_nats=1.0), TiltedRestart(plain=Sampling()))


class TestTiltedRestartWithoutTheTilt(StrategyContract):
    strategy, engine = TiltedRestart(tilt_nats=0.0), ToyEngine()


class TestAISP(StrategyContract):
    strategy, engine = AISP(), NoisyEngine(Toy(ends=True))
    others = (AISP(scale=0.7), PAPER)


class TestThePapersAISP(StrategyContract):
    strategy, engine = PAPER, NoisyEngine()


class TestQAlign(StrategyContract):
    strategy, engine = QAlign(), ToyEngine(Toy(ends=True))
    others = (QAlign(reward_temperature=1.0),)


class TestBlockwise(StrategyContract):
    strategy, engine = Blockwise(beams=2, block_tokens=1), ToyEngine()
    others = (Blockwise(beams=2),)


class TestMISVO(StrategyContract):
    strategy, engine = MISVO(), ToyEngine(Toy(ends=True))
    others = (MISVO(step_size=0.2),)


class TestSoftBestOfN(StrategyContract):
    strategy, engine = SoftBestOfN(), ToyEngine()
    others = (SoftBestOfN(target_ess_fraction=0.5),)


class TestPessimism(StrategyContract):
    strategy, engine = Pessimism(), ToyEngine()
    others = (Pessimism(target_ess_fraction=0.5),)


class TestTheRecipes(StrategyContract):
    engine = ToyEngine(Toy(ends=True))

    @pytest.fixture(autouse=True)
    def _import_the_recipe(self, monkeypatch):
        monkeypatch.syspath_prepend(Path(aisp.__file__).parents[1] / "cookbook")
        self.strategy = import_module("14_your_own_strategy").HalfKept()


@dataclass(frozen=True)
class Simple:
    """Keeps the contract; the strategies below break one clause each."""

    name = "simple"
    needs = frozenset()
    sampling: Sampling = GREEDY

    def init(self, context):
        return context.root_seed, 0

    def propose(self, state, n):
        root, index = state
        return tuple(Proposal(seed=row_seed(root, index, row), sampling=Sampling()) for row in range(n))

    def update(self, state, proposals, rollouts, scores):
        root, index = state
        return (root, index + 1), Info()


class TestSimple(StrategyContract):
    strategy, engine = Simple(), ToyEngine()


class NeverMoves(Simple):
    def update(self, state, proposals, rollouts, scores):
        return state, Info()


class IgnoresTheRoot(Simple):
    def init(self, context):
        return 1, 0


class OneTooMany(Simple):
    def propose(self, state, n):
        return super().propose(state, n + 1)


class Silent(Simple):
    def propose(self, state, n):
        return ()


class Dices(Simple):
    def propose(self, state, n):
        return tuple(replace(p, seed=p.seed + random.randrange(9)) for p in super().propose(state, n))


class DicesByNumpy(Simple):
    def update(self, state, proposals, rollouts, scores):
        return (state[0], state[1] + 1 + np.random.randint(3)), Info()


class Remembers(Simple):
    def init(self, context):
        return [context.root_seed, 0]

    def update(self, state, proposals, rollouts, scores):
        state[1] += 1
        return state, Info()


class Counts(Simple):
    def update(self, state, proposals, rollouts, scores):
        assert len(rollouts) == 8
        return super().update(state, proposals, rollouts, scores)


class TakesTheFirst(Simple):
    def update(self, state, proposals, rollouts, scores):
        return super().update(state, proposals, rollouts, scores)[0], Info(reward_temperature=abs(scores[0].value))


class Believes(Simple):
    def update(self, state, proposals, rollouts, scores):
        return (state[0] + int(max(score.value for score in scores)), state[1] + 1), Info()


class Asks(Simple):
    def propose(self, state, n):
        return tuple(replace(p, measures=frozenset({"bag"})) for p in super().propose(state, n))


class Invents(Simple):
    needs = frozenset({"kept"})

    def propose(self, state, n):
        head = replace(NO_TOKENS, ids=(0,), **{name: np.zeros(1) for name in ("log_prob", "log_prior", "log_proposal")})
        head = replace(head, **{name: np.zeros(1) for name in ("kl_to_base", "mean_dot", "entropy")})
        return tuple(replace(p, kept=head) for p in super().propose(state, n))


class Unlikely(Simple):
    def propose(self, state, n):
        return tuple(replace(p, log_start=0.3) for p in super().propose(state, n))


class Chooses(Simple):
    def choose(self, state, rewards, rng):
        return len(rewards)


class Forgets(Simple):
    def __repr__(self):
        return "Forgets()"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("strategy", "check"),
    [
        (NeverMoves(), "test_seeds_differ_within_a_round_and_between_rounds"),
        (IgnoresTheRoot(), "test_seeds_derive_from_the_root_seed"),
        (OneTooMany(), "test_a_round_has_at_least_one_proposal_and_at_most_those_asked_for"),
        (Silent(), "test_a_round_has_at_least_one_proposal_and_at_most_those_asked_for"),
        (Dices(), "test_the_same_inputs_give_the_same_outputs_and_stay_as_they_are"),
        (Dices(), "test_the_global_random_state_is_left_alone"),
        (DicesByNumpy(), "test_the_same_inputs_give_the_same_outputs_and_stay_as_they_are"),
        (DicesByNumpy(), "test_the_global_random_state_is_left_alone"),
        (Remembers(), "test_strategy_and_states_are_frozen_and_can_be_pickled"),
        (Remembers(), "test_the_same_inputs_give_the_same_outputs_and_stay_as_they_are"),
        (Counts(), "test_responses_may_be_told_in_any_number_and_order"),
        (TakesTheFirst(), "test_responses_may_be_told_in_any_number_and_order"),
        (Believes(), "test_the_value_of_what_is_vetoed_counts_for_nothing"),
        (Believes(), "test_nothing_usable_ties_and_a_single_response_do_not_bring_it_down"),
        (Asks(), "test_it_needs_what_its_proposals_use"),
        (Invents(), "test_what_is_kept_was_drawn_before"),
        (Unlikely(), "test_a_round_has_at_least_one_proposal_and_at_most_those_asked_for"),
        (Chooses(), "test_a_rule_of_its_own_chooses_one_of_the_responses"),
        (Simple(), "test_it_is_a_strategy_that_can_be_told_from_others"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_a_strategy_that_breaks_the_contract_is_found_out(strategy, check):
    contract = StrategyContract()
    contract.strategy, contract.engine, contract.others = strategy, ToyEngine(), (Simple(),)
    with pytest.raises((AssertionError, ValueError)):
        getattr(contract, check)()
