"""The contract of a strategy, as tests that a user's own strategies inherit.

    class TestMine(StrategyContract):
        strategy = Mine()
        engine = ToyEngine()

pytest then runs every check on `strategy`. Nothing here needs pytest: the checks are methods that raise AssertionError.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from aisp.records import Capability, Limits, Proposal, Rollout, Score
from aisp.strategies.base import Info, SearchContext, Strategy
from aisp.strategies.registry import build_strategy, describe_strategy
from aisp.testing.contract import _expect
from aisp.testing.toy import ToyEngine

_ATOMS = (str, bytes, int, float, bool, type(None))
_ONE_RESPONSE, _ALL, _EVERY_SECOND, _LAST_FIRST = slice(0, 1), slice(None), slice(None, None, 2), slice(None, None, -1)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """One round of a search: the state before it, what was proposed, drawn and scored, and what followed."""

    before: Any
    asked: int
    proposals: tuple[Proposal, ...]
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    after: Any
    info: Info


class StrategyContract:
    """Checks that a strategy keeps the contract of `aisp.strategies.Strategy`. Subclass it, and give `strategy`.

    Attributes:
        strategy: What is checked; a class attribute, a property, or set on the instance by a fixture.
        engine: What its proposals are drawn from: small, fast, and offering what the strategy needs.
        others: The same strategy with other options, whose descriptions must differ.
        context: The request that it serves; a budget of at least three rounds.
    """

    strategy: Strategy[Any]
    engine: Any = ToyEngine()
    others: Sequence[Strategy[Any]] = ()
    context = SearchContext(root_seed=5, budget=32, num_samples=8, max_tokens=4, partial=True)

    def test_it_is_a_strategy_that_can_be_told_from_others(self) -> None:
        _expect(build_strategy(self.strategy) is self.strategy, f"{self.strategy!r} can't be given as strategy=")
        known = [json.dumps(describe_strategy(one), sort_keys=True) for one in (self.strategy, *self.others)]
        _expect(len(set(known)) == len(known), f"strategies with other options have one description: {known}")

    def test_a_round_has_at_least_one_proposal_and_at_most_those_asked_for(self) -> None:
        for round_ in self._search():
            for n in range(1, self.context.num_samples + 1):
                self._check_proposals(self.strategy.propose(round_.before, n), n)

    def test_seeds_differ_within_a_round_and_between_rounds(self) -> None:
        for part in (_ALL, _ONE_RESPONSE, _EVERY_SECOND):
            seeds = [proposal.seed for round_ in self._search(part=part) for proposal in round_.proposals]
            _expect(len(set(seeds)) == len(seeds), f"{len(seeds) - len(set(seeds))} of {len(seeds)} seeds came before")

    def test_seeds_derive_from_the_root_seed(self) -> None:
        def seeds(root: int) -> list[int]:
            context = replace(self.context, root_seed=root)
            return [proposal.seed for proposal in self.strategy.propose(self.strategy.init(context), 8)]

        _expect(seeds(1) == seeds(1), "equal root seeds give different seeds")
        _expect(set(seeds(1)).isdisjoint(seeds(2)), "different root seeds give a seed in common")

    def test_the_same_inputs_give_the_same_outputs_and_stay_as_they_are(self) -> None:
        for round_ in self._search():
            given = pickle.dumps((round_.before, round_.proposals, round_.rollouts, round_.scores))
            for seed in (1, 2):
                with _global_seed(seed):
                    again = self.strategy.propose(round_.before, round_.asked)
                    after, info = self.strategy.update(round_.before, round_.proposals, round_.rollouts, round_.scores)
                _expect(_same(again, round_.proposals), "propose gives different proposals for one state")
                _expect(_same(info, round_.info), f"update gives {info}, then {round_.info}, for one input")
                _expect(
                    _same(self.strategy.propose(after, 8), self.strategy.propose(round_.after, 8)),
                    "update gives different states for one input",
                )
            kept = pickle.dumps((round_.before, round_.proposals, round_.rollouts, round_.scores))
            _expect(kept == given, "propose or update changed what it was given")

    def test_the_global_random_state_is_left_alone(self) -> None:
        with _global_seed(3):
            before = (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
            list(self._search())
            after = (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
        _expect(before == after, "random numbers were drawn from a global generator")

    def test_strategy_and_states_are_frozen_and_can_be_pickled(self) -> None:
        _expect(_is_frozen(self.strategy), f"{type(self.strategy).__name__} can be changed; make it a frozen dataclass")
        strategy = pickle.loads(pickle.dumps(self.strategy))  # noqa: S301 - its own
        for round_ in self._search():
            _expect(_is_frozen(round_.before), f"{type(round_.before).__name__} can be changed; freeze the state")
            state = pickle.loads(pickle.dumps(round_.before))  # noqa: S301 - its own
            _expect(_same(strategy.propose(state, 8), self.strategy.propose(round_.before, 8)), "pickles differ")

    def test_responses_may_be_told_in_any_number_and_order(self) -> None:
        for part in (_ONE_RESPONSE, _EVERY_SECOND, _LAST_FIRST):
            list(self._search(part=part))
        for round_ in self._search():
            state = round_.before
            for proposal, rollout, score in zip(round_.proposals, round_.rollouts, round_.scores, strict=True):
                state, info = self.strategy.update(state, [proposal], [rollout], [score])
                self._check(state, info)
            backwards = round_.proposals[::-1], round_.rollouts[::-1], round_.scores[::-1]
            _, info = self.strategy.update(round_.before, *backwards)
            same = _near(info.ess, round_.info.ess) and _near(info.reward_temperature, round_.info.reward_temperature)
            _expect(same, f"told backwards, an update says {info}, else {round_.info}")

    def test_nothing_usable_ties_and_a_single_response_do_not_bring_it_down(self) -> None:
        verdicts: list[Callable[[int, Score], Score]] = [
            lambda _row, own: replace(own, vetoed=True),
            lambda _row, own: replace(own, value=math.nan, error="it can't be scored"),
            lambda _row, own: replace(own, value=1.0),
            lambda row, own: replace(own, value=float(row == 0)),
            lambda row, own: replace(own, vetoed=row > 0),
            lambda row, own: replace(own, value=math.nan, error="no") if row % 2 else own,
            lambda _row, own: own.with_value(own.value * 1e300),
            lambda row, own: own.with_value(1.7e308 if row % 2 else -1.7e308),
        ]
        for verdict in verdicts:
            list(self._search(verdict))
        list(self._search(context=replace(self.context, budget=1, num_samples=1)))

    def test_the_value_of_what_is_vetoed_counts_for_nothing(self) -> None:
        def search(value: float) -> list[tuple[Proposal, ...]]:
            rounds = self._search(lambda row, own: Score(value=value, vetoed=True) if row % 3 else own)
            return [round_.proposals for round_ in rounds]

        _expect(_same(search(1e6), search(-1e6)), "the value of a vetoed response changes what is proposed")

    def test_it_needs_what_its_proposals_use(self) -> None:
        needs = frozenset(self.strategy.needs)
        for round_ in self._search():
            for proposal in round_.proposals:
                missing = sorted(_used(proposal) - needs)
                _expect(not missing, f"a proposal uses {', '.join(missing)}, and `needs` is {sorted(needs)}")

    def test_what_is_kept_was_drawn_before(self) -> None:
        drawn: list[tuple[int, ...]] = []
        for round_ in self._search():
            for proposal in round_.proposals:
                ids = proposal.kept.ids
                known = any(response[: len(ids)] == ids for response in drawn)
                _expect(not ids or known, f"{ids} is kept, and no response began like this")
            drawn += [rollout.tokens.ids for rollout in round_.rollouts]

    def test_a_rule_of_its_own_chooses_one_of_the_responses(self) -> None:
        choose = getattr(self.strategy, "choose", None)
        if choose is None:
            return
        for round_ in self._search():
            for rewards in (
                np.array([0.5]),
                np.array([1.0, 3.0, 2.0, 3.0]),
                np.zeros(5),
                np.array([-1.7e308, 1.7e308]),
            ):
                picks = {int(choose(round_.after, rewards, np.random.default_rng(seed))) for seed in (1, 1)}
                [pick] = picks if len(picks) == 1 else [-1]
                _expect(0 <= pick < len(rewards), f"choose returns {picks} of {len(rewards)} responses")

    def _search(
        self,
        verdict: Callable[[int, Score], Score] | None = None,
        *,
        part: slice = _ALL,
        context: SearchContext | None = None,
    ) -> Iterator[_Round]:
        """Go through a search's rounds, checking what every one must keep.

        Args:
            verdict: Returns the score of a row in place of its own.
            part: Which of a round's responses the strategy is told.
            context: Another request.
        """
        context = context or self.context
        prefix, limits = self.engine.prefill((1,)), Limits(max_tokens=context.max_tokens)
        state, spent = self.strategy.init(context), 0
        while spent < context.budget:
            n = min(context.num_samples, context.budget - spent)
            proposals = self.strategy.propose(state, n)
            self._check_proposals(proposals, n)
            rollouts = self.engine.rollout(prefix, proposals, limits)
            scores = [Score(value=_value(rollout)) for rollout in rollouts]
            scores = [verdict(row, own) for row, own in enumerate(scores)] if verdict else scores
            given = tuple(proposals[part]), tuple(rollouts[part]), tuple(scores[part])
            before, (state, info) = state, self.strategy.update(state, *given)
            self._check(state, info)
            spent += len(proposals)
            yield _Round(
                before=before,
                asked=n,
                proposals=given[0],
                rollouts=given[1],
                scores=given[2],
                after=state,
                info=info,
            )

    def _check(self, state: Any, info: Info) -> None:
        self._check_proposals(self.strategy.propose(state, 3), 3)
        _expect(isinstance(info, Info), f"update returns {info!r} beside the state; expected Info")
        ess, temperature = info.ess, info.reward_temperature
        _expect(ess is None or 1.0 - 1e-9 <= ess < math.inf, f"an effective sample size of {ess}")
        _expect(temperature is None or temperature >= 0, f"a reward temperature of {temperature}")

    def _check_proposals(self, proposals: Sequence[Proposal], n: int) -> None:
        _expect(all(isinstance(proposal, Proposal) for proposal in proposals), f"{proposals!r} are not proposals")
        _expect(1 <= len(proposals) <= n, f"{len(proposals)} proposals, where {n} were asked for")
        starts = [proposal.log_start for proposal in proposals if proposal.log_start is not None]
        _expect(all(start <= 1e-9 for start in starts), f"log_start of {starts}; expected log-probabilities, or None")


def _value(rollout: Rollout) -> float:
    """Return a reward that differs between most responses."""
    return float(sum((place + 1) * (token % 7) for place, token in enumerate(rollout.tokens.ids)) % 11)


def _used(proposal: Proposal) -> frozenset[Capability]:
    """Return what a proposal asks of an engine."""
    used: set[Capability] = set(proposal.measures)
    if proposal.kept.ids or proposal.pause_after is not None:
        used.add("kept")
    if proposal.excluded:
        used.add("excluded")
    if proposal.shift is not None:
        used.add("shift")
    if proposal.scale or proposal.mean:
        used.add("noise")
    if proposal.grammar is not None:
        used.add("grammar")
    return frozenset(used)


def _is_frozen(thing: Any) -> bool:
    if is_dataclass(thing):
        return bool(thing.__dataclass_params__.frozen)  # type: ignore[union-attr]
    return isinstance(thing, (*_ATOMS, tuple, frozenset))


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, arrays and NaN included."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if is_dataclass(one) and type(one) is type(other):
        return all(_same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other) or (one != one and other != other)


def _near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
