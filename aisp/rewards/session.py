"""What scores one request: equal candidates are scored once, across rounds too, and by a part that occurs twice."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence

from aisp.records import Candidate, Score
from aisp.rewards.algebra import Combined
from aisp.rewards.base import Reward, candidate_key, unique


class Memo(Reward):
    """Remembers the scores of a reward for the length of a request.

    Args:
        reward: What scores; it is asked for the state of its own that a request needs.
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__(name=reward.name, on_error=reward.on_error, partial=reward.partial, cost=reward.cost)
        self._reward = _sharing(reward.fresh())
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


def _sharing(reward: Reward) -> Reward:
    """Return a reward in which a part that occurs several times, as in `kind + veto(kind)`, is asked once."""
    occurs = Counter(id(leaf) for leaf in _leaves(reward))
    memos: dict[int, Memo] = {}

    def rebuilt(node: Reward) -> Reward:
        if isinstance(node, Combined):
            clone = copy.copy(node)
            clone.parts = tuple(rebuilt(part) for part in node.parts)
            return clone
        if occurs[id(node)] == 1:
            return node
        if id(node) not in memos:
            memos[id(node)] = Memo(node)
        return memos[id(node)]

    return rebuilt(reward) if max(occurs.values()) > 1 else reward


def _leaves(reward: Reward) -> Iterator[Reward]:
    if isinstance(reward, Combined):
        for part in reward.parts:
            yield from _leaves(part)
    else:
        yield reward
