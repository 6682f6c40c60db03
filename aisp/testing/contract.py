"""The contract of a reward, as tests that a user's own rewards inherit.

    class TestMine(RewardContract):
        reward = MyReward()

pytest then runs every check on `reward`. Nothing here needs pytest: the checks are methods that raise AssertionError.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aisp.records import Candidate, Message, Score

if TYPE_CHECKING:
    from aisp.rewards.base import Reward

_ASKED: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How do I keep bread fresh?"},
)


def _candidates(*texts: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(messages=_ASKED, text=text) for text in texts)


class RewardContract:
    """Checks that a reward keeps the contract of `aisp.rewards.Reward`. Subclass it, and give `reward`.

    Attributes:
        reward: What is checked; a class attribute, a property, or set on the instance by a fixture.
        candidates: Different candidates that it can score, at least three.
        odd: Candidates that are hard to score (empty, not ASCII, long): they must not bring it down.
        others: Rewards of the same kind and another configuration, whose fingerprints must differ.
        tolerance: By how much two values may differ and be the same: what batches round otherwise.
    """

    reward: Reward
    candidates: Sequence[Candidate] = _candidates(
        "Keep it in a paper bag.",
        "I am sorry, but I don't know anything about bread!",
        "Wrap it in a cloth, and freeze what you don't eat within two days. It thaws in an hour.",
        "No.",
    )
    odd: Sequence[Candidate] = _candidates(
        "", " \n\t", "Brot hält länger, naïve Ämter — 面包 🍞 \u202eright to left", "\x00\ufffd", "{}", "word " * 300
    )
    others: Sequence[Reward] = ()
    tolerance: float = 1e-4

    def test_nothing_that_it_needs_is_missing(self) -> None:
        _expect(self.reward.check() is None, "check() returns something; it raises, or returns None")  # type: ignore[func-returns-value]

    def test_there_is_one_verdict_a_candidate(self) -> None:
        for count in range(1, len(self.candidates) + 1):
            scores = self.reward.score(self.candidates[:count])
            _expect(len(scores) == count, f"{len(scores)} verdicts for {count} candidates")
            _expect(all(isinstance(score, Score) for score in scores), f"{scores} are not scores")

    def test_no_candidates_get_no_verdicts(self) -> None:
        _expect(list(self.reward.score([])) == [], "score([]) is not empty")
        _expect(list(self.reward.session().score([])) == [], "score([]) of a session is not empty")
        _expect(list(asyncio.run(self.reward.ascore([]))) == [], "ascore([]) is not empty")

    def test_values_are_finite(self) -> None:
        for candidate, score in zip(self.candidates, self.reward.score(self.candidates), strict=True):
            _expect(not score.usable or math.isfinite(score.value), f"{candidate.text!r} gets {score.value}")
            parts = [value for value in score.parts.values() if not math.isfinite(value)]
            _expect(not parts, f"{candidate.text!r} has parts {dict(score.parts)}")

    def test_odd_texts_do_not_bring_it_down(self) -> None:
        for candidate in self.odd:
            [score] = self.reward.score([candidate])
            _expect(not score.usable or math.isfinite(score.value), f"{candidate.text!r} gets {score.value}")
        scores = self.reward.score([*self.candidates, *self.odd])
        _expect(len(scores) == len(self.candidates) + len(self.odd), f"{len(scores)} verdicts")

    def test_a_batch_is_scored_as_its_candidates_are(self) -> None:
        scorer = self.reward.fresh()
        together = scorer.score(self.candidates)
        alone = [scorer.score([candidate])[0] for candidate in self.candidates]
        self._expect_same(together, alone, "in a batch and alone")

    def test_their_order_does_not_matter(self) -> None:
        forwards = self.reward.fresh().score(self.candidates)
        backwards = self.reward.fresh().score(self.candidates[::-1])
        self._expect_same(forwards, backwards[::-1], "in the order given and in the reverse")

    def test_verdicts_are_the_same_every_time(self) -> None:
        first = self.reward.session().score(self.candidates)
        for _ in range(2):
            self._expect_same(first, self.reward.session().score(self.candidates), "at first and in a later session")

    def test_equal_candidates_are_scored_once(self) -> None:
        one, other, *_ = self.candidates
        spied, asked = _spied(self.reward)
        scores = spied.score([one, other, copy.copy(one)])
        self._expect_same(scores[:1], scores[2:], "as one of two equal candidates and as the other")
        _expect(len(asked) == 2, f"{len(asked)} candidates were scored where 2 differ")

    def test_a_session_remembers(self) -> None:
        one, other, *_ = self.candidates
        spied, asked = _spied(self.reward)
        session = spied.session()
        first = session.score([one])
        again = session.score([other, one])
        self._expect_same(first, again[1:], "in the first round of a session and in the second")
        _expect(len(asked) == 2, f"{len(asked)} candidates were scored in a session where 2 differ")

    def test_a_session_leaves_it_as_it_is(self) -> None:
        some, others = self.candidates[:2], self.candidates[2:]
        before, print_before = self.reward.score(some), self.reward.fingerprint
        for scorer in (self.reward.session(), self.reward.fresh()):
            scorer.score(others)
            scorer.score(some)
            _expect(scorer.fingerprint == print_before, "a session has another fingerprint")
        self._expect_same(before, self.reward.score(some), "before a session scored others, and after it")
        _expect(self.reward.fingerprint == print_before, "scoring changes the fingerprint")

    def test_async_is_like_sync(self) -> None:
        expected = self.reward.score(self.candidates)

        async def on_a_loop() -> tuple[list[Score], list[Score]]:
            return await self.reward.ascore(self.candidates), self.reward.score(self.candidates)

        awaited, blocking = asyncio.run(on_a_loop())
        self._expect_same(expected, awaited, "by score and by ascore")
        self._expect_same(expected, blocking, "off an event loop and on one, as in a notebook")

    def test_the_fingerprint_tells_configurations_apart(self) -> None:
        own = self.reward.fingerprint
        _expect(isinstance(own, str) and bool(own), f"the fingerprint is {own!r}")
        _expect(self.reward.fingerprint == own, "the fingerprint is another each time")
        renamed = copy.copy(self.reward)
        renamed.name = f"{self.reward.name}_renamed"
        for other in (renamed, *self.others):
            _expect(other.fingerprint != own, f"{other!r} has the fingerprint of {self.reward!r}")

    def _expect_same(self, ones: Sequence[Score], others: Sequence[Score], where: str) -> None:
        _expect(len(ones) == len(others), f"{len(ones)} verdicts, then {len(others)}: {where}")
        for one, other in zip(ones, others, strict=True):
            _expect(
                (one.vetoed, one.error is None) == (other.vetoed, other.error is None)
                and self._near(one.value, other.value)
                and one.parts.keys() == other.parts.keys()
                and all(self._near(one.parts[name], other.parts[name]) for name in one.parts),
                f"{one} is not {other}: {where}",
            )

    def _near(self, one: float, other: float) -> bool:
        both_missing = math.isnan(one) and math.isnan(other)
        return both_missing or math.isclose(one, other, rel_tol=self.tolerance, abs_tol=self.tolerance)


def _spied(reward: Reward) -> tuple[Reward, list[Candidate]]:
    """Return a copy of a reward, and the list of the candidates that its own code is asked for."""
    spied = copy.copy(reward)
    asked: list[Candidate] = []
    name = "_ascore" if reward.is_async else "_score"
    original: Any = getattr(reward, name)

    def spy(candidates: Sequence[Candidate]) -> Any:
        asked.extend(candidates)
        return original(candidates)

    setattr(spied, name, spy)
    return spied, asked


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
