"""An engine of canned texts behind a loaded model that needs no weights, for tests of the chat model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from aisp.records import CAPABILITIES, TOKEN_FIGURES, Limits, Prefix, Proposal, Rollout, Tokens

WORDS = ("ash", "birch", "cedar", "elm", "fir", "gum", "hazel", "ivy")


class FakeEngine:
    """Answers with a text that depends on the proposal's seed; a rollout takes `seconds`, unless it is cancelled."""

    context_length = None
    offers = CAPABILITIES
    codec = None

    def __init__(self, texts: Sequence[str] = WORDS, seconds: float = 0.0) -> None:
        self.texts = texts
        self.seconds = seconds
        self.prompts: list[tuple[int, ...]] = []
        self.limits: list[Limits] = []
        self.drawn = 0
        self.cancelled = threading.Event()

    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        self.prompts.append(tuple(token_ids))
        return Prefix(token_ids=tuple(token_ids))

    def rollout(
        self,
        prefix: Prefix,
        proposals: Sequence[Proposal],
        limits: Limits,
        progress: Callable[[int], None] | None = None,
    ) -> list[Rollout]:
        self.limits.append(limits)
        self.drawn += len(proposals)
        over = self._wait(limits)
        return [self._answer(proposal, over) for proposal in proposals]

    def _wait(self, limits: Limits) -> bool:
        end = time.monotonic() + self.seconds
        while True:
            if limits.cancel is not None and limits.cancel.is_set():
                self.cancelled.set()
                return True
            if limits.deadline is not None and time.monotonic() >= limits.deadline:
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)

    def _answer(self, proposal: Proposal, cancelled: bool) -> Rollout:
        text = self.texts[proposal.seed % len(self.texts)]
        ids = tuple(range(len(text.split()) + 1))
        return Rollout(
            tokens=Tokens(ids=ids, **{name: np.full(len(ids), -1.0) for name in TOKEN_FIGURES}),
            text=text,
            finish_reason="cancelled" if cancelled else "stop",
            forward_tokens=len(ids) - 1,
            measured={"natural_scale": 0.5} if "natural_scale" in proposal.measures else {},
        )
