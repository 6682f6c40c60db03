"""A judge that generates nothing: the probabilities of the levels' digits, in one forward pass a criterion."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aisp import engines, models
from aisp.engines import Engine
from aisp.errors import ConfigurationError, UnsupportedModelError
from aisp.models.codec import ChatCodec
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward
from aisp.rewards.rubric import Criterion, Rubric, describe, messages_for
from aisp.rewards.scope import stop_if_given_up

_OFFER = "next_token_log_probs"


class LocalJudge(Reward):
    """Scores with a chat model that reads a rubric, on any engine that offers next-token log-probabilities.

    The verdict on a criterion is the expected level under the model's probabilities of the levels' digits: graded,
    where an answer drawn from the model would be a coin toss. What prompts share (the request, and between criteria
    the answer) is read once.

    Args:
        rubric: A `Rubric`, criteria, or a question about the answer.
        model: What `aisp.models.load` takes: a name, which is loaded when it is first needed, or a loaded model.
        engine: In place of a model, an engine that has it: with `codec`, `log_probs`, and "next_token_log_probs" among
            what it `offers`.
        dtype: Of the weights of a model that is named.
        device: Where it runs.

    Raises:
        ConfigurationError: Something else than a rubric; both a model and an engine, or neither.
        UnsupportedModelError: An engine that doesn't offer next-token log-probabilities.
    """

    cost = 50.0

    def __init__(
        self,
        rubric: Rubric | Criterion | str | Sequence[Criterion],
        *,
        model: Any = None,
        engine: Any = None,
        dtype: str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"name": "judge", **options})
        self.rubric = Rubric.of(rubric)
        if (model is None) == (engine is None):
            given = "neither a model nor an engine" if model is None else "both a model and an engine"
            raise ConfigurationError(f"a local judge got {given}; give model=... or engine=...")
        if engine is not None and (dtype is not None or device is not None):
            raise ConfigurationError(
                f"dtype is {dtype!r} and device {device!r}, but an engine has its model already; leave them out"
            )
        self.model, self.dtype, self.device = model, dtype, device
        self._lock = threading.Lock()
        self._engine = None if engine is None else _checked(engine)
        self._digits: list[int] | None = None

    def check(self) -> None:
        """Find a model that isn't there.

        Raises:
            ModelNotFoundError: The name leads to no model.
            UnsupportedModelError: Its weights are not in safetensors format.
        """
        if isinstance(self.model, str | os.PathLike):
            models.check_name(self.model)

    def config(self) -> Mapping[str, Any]:
        if self.model is None:
            named = f"engine {id(self._engine)}"
        else:
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
        stop_if_given_up()
        engine = self.judging_engine()
        prompt = engine.codec.encode(messages_for(self.rubric, candidate, criterion))
        log_p = engine.log_probs(prompt, self._digit_tokens(engine.codec)[: len(criterion.levels)])
        weights = np.exp(log_p - log_p.max())
        return float(weights @ np.arange(len(weights)) / weights.sum())

    def judging_engine(self) -> Engine:
        """Return the engine that is asked, whose model is loaded by now."""
        if self._engine is not None:
            return self._engine
        placed = {"dtype": self.dtype, "device": self.device} if isinstance(self.model, str | os.PathLike) else {}
        return engines.engine_for(self.model, **placed)

    def _digit_tokens(self, codec: ChatCodec) -> list[int]:
        with self._lock:
            if self._digits is None:
                encoded = [codec.tokenizer.encode(str(d), add_special_tokens=False) for d in range(1, 10)]
                if any(len(ids) != 1 for ids in encoded) or len({ids[0] for ids in encoded}) < len(encoded):
                    raise ConfigurationError(
                        f"the tokenizer of {codec.name} has no token of its own for each digit, so levels can't be "
                        "told apart by one; judge with aisp_langchain.rewards.RubricJudge, or another model"
                    )
                self._digits = [ids[0] for ids in encoded]
            return self._digits


def _checked(engine: Any) -> Engine:
    """Refuse an engine that a judge can't ask."""
    if not callable(getattr(engine, "log_probs", None)) or not hasattr(engine, "codec"):
        raise ConfigurationError(
            f"engine is a {type(engine).__name__}; expected an engine with `codec` and `log_probs`, as "
            "aisp.engines.engine_for returns; a model's name goes to model=..."
        )
    offers = frozenset(engine.offers)
    if _OFFER not in offers:
        raise UnsupportedModelError(
            f"the engine {type(engine).__name__} offers {', '.join(sorted(offers)) or 'nothing'}, and a judge needs "
            f"{_OFFER}; judge on another engine, or with aisp_langchain.rewards.RubricJudge"
        )
    judging: Engine = engine
    return judging
