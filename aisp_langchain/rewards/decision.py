"""Rewards from decision models (`langchain_core.decisions`, in core from 1.8 on): a typed question about the answer."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import Runnable

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.base import Reward, Verdict
from aisp_langchain.rewards.evaluators import inputs_of, outputs_of

_ID = "answer"
_READ = {"noul": "noul", "score": "score", "choice": "probabilities"}


class DecisionReward(Reward):
    """Scores with a decision model that is asked one question about the conversation, response included.

    The value is the probability of yes (`Noul`), the expected level (`Score`), or a label's probability (`Choice`).

    Args:
        model: A Runnable that takes `{"state", "questions"}` and answers with `answers`, as `BaseDecisionModel` does.
        question: A `Noul`, `Score` or `Choice`.
        label: Of a `Choice`: the one whose probability counts.
        max_concurrency: Requests at once; None leaves that to LangChain.
        version: Of the model, to share cache entries between processes. Without it, no two objects share any.

    Raises:
        ConfigurationError: A question of another type, or a label that it has not.
    """

    cost = 50.0

    def __init__(
        self,
        model: Runnable[Any, Any],
        question: Any,
        *,
        label: str | None = None,
        max_concurrency: int | None = None,
        version: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"name": "decision", **options})
        if not isinstance(model, Runnable):
            raise ConfigurationError(
                f"model is a {type(model).__name__}; expected a decision model, which is a Runnable"
            )
        kind = getattr(question, "type", None)
        if kind not in _READ:
            raise ConfigurationError(f"question is {question!r}; expected a Noul, Score or Choice")
        labels = list(question.criteria) if kind == "choice" else []
        if (kind == "choice" or label is not None) and label not in labels:
            raise ConfigurationError(
                f"label is {label!r} of a question of type {kind!r}; expected one of {', '.join(labels) or 'none'}"
            )
        self.model, self.question, self.label, self.max_concurrency = model, question, label, max_concurrency
        self._version = version or uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        named = getattr(self.model, "model", type(self.model).__qualname__)
        asked = self.question.model_dump(mode="json")
        return {"model": str(named), "question": asked, "label": self.label, "version": self._version}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        requests = [
            {"state": [*inputs_of(candidate), outputs_of(candidate)], "questions": {_ID: self.question}}
            for candidate in candidates
        ]
        return [self._read(each) for each in self.model.batch(requests, {"max_concurrency": self.max_concurrency})]

    def _read(self, response: Any) -> Verdict:
        found = getattr(response.answers[_ID], _READ[self.question.type])
        return found[self.label] if self.question.type == "choice" else found  # type: ignore[no-any-return]


def is_decision_model(source: Any) -> bool:
    """Return whether something is a decision model; False where core has none yet."""
    # Not imported: whoever made one has done that. An import that fails would run Python's import system at every
    # request, where Ctrl-C can leave its lock taken for good, so that every later import hangs.
    decisions = sys.modules.get("langchain_core.decisions")
    return decisions is not None and isinstance(source, decisions.BaseDecisionModel)
