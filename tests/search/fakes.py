"""An engine of canned texts and rewards that are plain functions, for tests of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from aisp.forms import Form
from aisp.records import CAPABILITIES, TOKEN_FIGURES, Candidate, Limits, Prefix, Proposal, Rollout, Score, Tokens
from aisp.search.events import SearchEnded, SearchStep
from aisp.search.loop import Aligner


class FakeEngine:
    """Answers with a word that depends on the proposal's seed; every rollout takes `seconds`."""

    context_length = None
    offers = CAPABILITIES
    codec = None

    def __init__(self, seconds: float = 0.0, words: Sequence[str] = ("ash", "birch", "cedar", "elm", "fir")) -> None:
        self.seconds = seconds
        self.words = words
        self.calls: list[int] = []

    def prefill(self, token_ids):
        return Prefix(token_ids=tuple(token_ids))

    def rollout(self, prefix: Prefix, proposals: Sequence[Proposal], limits: Limits, progress=None):
        self.calls.append(len(proposals))
        time.sleep(self.seconds)
        over = limits.deadline is not None and time.monotonic() >= limits.deadline
        over = over or (limits.cancel is not None and limits.cancel.is_set())
        return [self._answer(proposal, cancelled=over) for proposal in proposals]

    def _answer(self, proposal: Proposal, cancelled: bool) -> Rollout:
        word = self.words[proposal.seed % len(self.words)]
        figures = {name: np.full(3, 1.0 if name == "entropy" else -1.0) for name in TOKEN_FIGURES}
        return Rollout(
            tokens=Tokens(ids=(1, 2, 3), **figures),
            text=word,
            finish_reason="cancelled" if cancelled else "stop",
            forward_tokens=2,
            measured={"natural_scale": 0.5} if "natural_scale" in proposal.measures else {},
        )


class FakeReward:
    """Scores with a function from text to a number or a Score."""

    name = "fake"
    partial = False

    def __init__(self, function: Callable[[str], float | Score]) -> None:
        self.function = function
        self.sessions = 0

    def session(self):
        self.sessions += 1
        return self

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
