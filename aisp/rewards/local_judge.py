"""A judge that generates nothing: the probabilities of the levels' digits, in one forward pass a criterion."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward
from aisp.rewards.rubric import Criterion, Rubric, describe, messages_for

if TYPE_CHECKING:
    from aisp.models import LoadedModel


class LocalJudge(Reward):
    """Scores with a local chat model that reads a rubric.

    The verdict on a criterion is the expected level under the model's probabilities of the levels' digits: graded,
    where an answer drawn from the model would be a coin toss. What prompts share (the request, and between criteria
    the answer) is read once.

    Args:
        rubric: A `Rubric`, criteria, or a question about the answer.
        model: What `aisp.models.load` takes.
        dtype: Of its weights.
        device: Where it runs.

    Raises:
        ConfigurationError: No rubric; a tokenizer that has no token of its own for a digit.
    """

    cost = 50.0

    def __init__(
        self,
        rubric: Rubric | Criterion | str | Sequence[Criterion],
        *,
        model: Any,
        dtype: str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"name": "judge", **options})
        self.rubric = Rubric.of(rubric)
        self.model, self.dtype, self.device = model, dtype, device
        self._lock = threading.Lock()
        self._digits: list[int] | None = None

    def config(self) -> Mapping[str, Any]:
        named = self.model if isinstance(self.model, str) else f"object {id(self.model)}"
        return {"rubric": describe(self.rubric), "model": named, "dtype": self.dtype}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [self._judged(candidate) for candidate in candidates]

    def _judged(self, candidate: Candidate) -> Score:
        expected = {c.name: self.expected_level(candidate, c) for c in self.rubric.criteria}
        shares = {c.name: expected[c.name] / (len(c.levels) - 1) for c in self.rubric.criteria}
        return Score(value=self.rubric.value(expected), parts=shares)

    def expected_level(self, candidate: Candidate, criterion: Criterion) -> float:
        """Return the mean level, from 0 to the number of levels less 1."""
        from aisp.engines import engine_for

        loaded = self._loaded()
        prompt = loaded.encode(messages_for(self.rubric, candidate, criterion))
        engine: Any = engine_for(loaded)
        log_p = engine.log_probs(prompt, self._digit_tokens(loaded)[: len(criterion.levels)])
        weights = np.exp(log_p - log_p.max())
        return float(weights @ np.arange(len(weights)) / weights.sum())

    def _loaded(self) -> LoadedModel:
        from aisp.models import load

        return load(self.model, dtype=self.dtype, device=self.device)

    def _digit_tokens(self, loaded: LoadedModel) -> list[int]:
        with self._lock:
            if self._digits is None:
                encoded = [loaded.tokenizer.encode(str(d), add_special_tokens=False) for d in range(1, 10)]
                if any(len(ids) != 1 for ids in encoded) or len({ids[0] for ids in encoded}) < len(encoded):
                    raise ConfigurationError(
                        f"the tokenizer of {loaded.name} has no token of its own for each digit, so levels can't be "
                        "told apart by one; judge with aisp_langchain.rewards.RubricJudge, or another model"
                    )
                self._digits = [ids[0] for ids in encoded]
            return self._digits
