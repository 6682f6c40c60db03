"""Rewards that are plain functions, and searches that run to their end, for tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aisp.forms import Form
from aisp.records import Candidate, Score
from aisp.search.events import SearchEnded, SearchStep
from aisp.search.loop import Aligner


class FakeReward:
    """Scores with a function from text to a number or a Score."""

    name = "fake"
    partial = False
    is_async = False

    def __init__(self, function: Callable[[str], float | Score]) -> None:
        self.function = function
        self.sessions = 0

    def session(self):
        self.sessions += 1
        return self

    def leaves(self):
        yield self

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        values = [self.function(candidate.text) for candidate in candidates]
        return [value if isinstance(value, Score) else Score(value=value) for value in values]


class Searches(Aligner):
    """An aligner of plain answers, whose searches run to their end."""

    def __init__(self, engine, strategy, reward, plan, **options):
        form = Form()
        super().__init__(engine, strategy, reward, plan, parse=form.parse, settle=form.settle, **options)

    def align(self, request):
        *_, last = self.search(request).events()
        assert isinstance(last, SearchEnded)
        return last.alignment

    def rounds(self, request):
        return (event.round for event in self.search(request).events() if isinstance(event, SearchStep))
