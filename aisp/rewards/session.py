"""What scores one request: equal candidates are scored once, across rounds too."""

from __future__ import annotations

from collections.abc import Sequence

from aisp.records import Candidate, Score
from aisp.rewards.base import Reward, candidate_key, unique


class Memo(Reward):
    """Remembers the scores of a reward for the length of a request.

    Args:
        reward: What scores; it is asked for the state of its own that a request needs.
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__(name=reward.name, on_error=reward.on_error, partial=reward.partial, cost=reward.cost)
        self._reward = reward.fresh()
        self._known: dict[str, Score] = {}

    def session(self) -> Reward:
        return self

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        new = self._new(candidates)
        return self._recall(candidates, new, self._reward.score(new) if new else [])

    async def ascore(self, candidates: Sequence[Candidate]) -> list[Score]:
        new = self._new(candidates)
        return self._recall(candidates, new, await self._reward.ascore(new) if new else [])

    @property
    def is_async(self) -> bool:
        return self._reward.is_async

    @property
    def fingerprint(self) -> str:
        return self._reward.fingerprint

    def _new(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return unique([candidate for candidate in candidates if candidate_key(candidate) not in self._known])[0]

    def _recall(
        self, candidates: Sequence[Candidate], new: Sequence[Candidate], scores: Sequence[Score]
    ) -> list[Score]:
        self._known.update((candidate_key(candidate), score) for candidate, score in zip(new, scores, strict=True))
        return [self._known[candidate_key(candidate)] for candidate in candidates]
