"""A judge that is any chat model with structured output, reading a rubric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel, Field, create_model

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward
from aisp.rewards.retry import RetryPolicy
from aisp.rewards.rubric import Criterion, Rubric, describe, introduction, question

_TASK = "You judge answers by a rubric. Give every criterion the number of the level that fits best, and one comment."


class RubricJudge(Reward):
    """Scores with a chat model that reads a rubric and answers in a schema of its own.

    One call a candidate, side by side. What fails (the network, an answer that doesn't fit the schema) is tried again
    with growing waits; after that `on_error` says what becomes of the candidate.

    Args:
        llm: A chat model with `with_structured_output`. Its tokens don't reach the stream of the model that it steers.
        rubric: A `Rubric`, criteria, or a question about the answer.
        method: Of structured output; None leaves it to the chat model.
        retry: When to try again.
        max_concurrency: Calls at once; None leaves that to LangChain.

    Raises:
        ConfigurationError: Something else than a chat model or a rubric.
    """

    cost = 100.0

    def __init__(
        self,
        llm: BaseChatModel,
        rubric: Rubric | Criterion | str | Sequence[Criterion],
        *,
        method: str | None = None,
        retry: RetryPolicy | None = None,
        max_concurrency: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"name": "judge", **options})
        if not isinstance(llm, BaseChatModel):
            raise ConfigurationError(f"llm is a {type(llm).__name__}; expected a LangChain chat model")
        self.rubric = Rubric.of(rubric)
        self.llm, self.method, self.max_concurrency = llm, method, max_concurrency
        self.retry = retry or RetryPolicy(attempts=3)
        options_of_llm: dict[str, Any] = {} if method is None else {"method": method}
        self._asked = llm.with_structured_output(_schema(self.rubric), **options_of_llm)

    def config(self) -> Mapping[str, Any]:
        return {"rubric": describe(self.rubric), "llm": self.llm._get_llm_string(), "method": self.method}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        side_by_side = RunnableLambda(self._judged)
        return side_by_side.batch(list(candidates), config={"max_concurrency": self.max_concurrency})

    def _judged(self, candidate: Candidate) -> Score:
        for attempt in self.retry.retrying(lambda error: isinstance(error, Exception)):
            with attempt:
                return self._read(self._asked.invoke(self.messages(candidate)))
        raise ConfigurationError("retry allows no attempt")

    def messages(self, candidate: Candidate) -> list[SystemMessage | HumanMessage]:
        """Return what the chat model is asked."""
        asked = "\n\n".join(f"{criterion.name}: {question(criterion)}" for criterion in self.rubric.criteria)
        return [SystemMessage(_TASK), HumanMessage(f"{introduction(self.rubric, candidate)}\n\n{asked}")]

    def _read(self, verdict: Any) -> Score:
        if verdict is None:
            raise ValueError("the judge gave no verdict in the schema")
        given = verdict.model_dump() if isinstance(verdict, BaseModel) else dict(verdict)
        levels = {
            c.name: float(given[key]) - 1.0 for key, c in zip(_keys(self.rubric), self.rubric.criteria, strict=True)
        }
        shares = {c.name: levels[c.name] / (len(c.levels) - 1) for c in self.rubric.criteria}
        return Score(value=self.rubric.value(levels), parts=shares, comment=given.get("comment") or None)


def _keys(rubric: Rubric) -> list[str]:
    """Return field names for the criteria: their own where those are identifiers."""
    names = [criterion.name for criterion in rubric.criteria]
    return [name if name.isidentifier() and name != "comment" else f"criterion_{i}" for i, name in enumerate(names, 1)]


def _schema(rubric: Rubric) -> type[BaseModel]:
    """Return a model with a number a criterion, within its levels, and a comment."""
    fields: dict[str, Any] = {
        key: (int, Field(description=criterion.description, ge=1, le=len(criterion.levels)))
        for key, criterion in zip(_keys(rubric), rubric.criteria, strict=True)
    }
    fields["comment"] = (str, Field(description="Why, in a few words.", max_length=200))
    return create_model("Verdict", __doc__="The verdict on one answer.", **fields)
