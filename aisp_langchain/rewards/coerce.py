"""Makes a reward of whatever can be one: a reward, a function, a Runnable, or several of them."""

from __future__ import annotations

import copy
import functools
import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda, RunnableSequence
from langchain_core.runnables.base import RunnableParallel

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.base import Reward, Sum, Verdict
from aisp.rewards.classifier import Classifier
from aisp.rewards.event_loop import run
from aisp.rewards.function import BINDERS, BatchReward, Binders, FunctionReward, is_async, last_user_text
from aisp_langchain.rewards.decision import is_decision_model
from aisp_langchain.rewards.evaluators import example_of, inputs_of, outputs_of, payload_of, run_of, to_verdict

LANGCHAIN_BINDERS: Binders = {
    **BINDERS,
    "inputs": lambda candidate: inputs_of(candidate),
    "outputs": lambda candidate: outputs_of(candidate),
    "reference_outputs": lambda candidate: candidate.reference,
    "run": lambda candidate: run_of(candidate),
    "example": lambda candidate: example_of(candidate),
    "attachments": lambda _: {},
}
"""What a reward function's parameters may be called here: those of `aisp`, and LangChain's evaluators' names."""

# openevals' own evaluators write what they compare as JSON, which a message is not.
_OPENEVALS_BINDERS: Binders = {
    **LANGCHAIN_BINDERS,
    "outputs": lambda candidate: outputs_of(candidate) if candidate.tool_calls else candidate.text,
}

_EXPECTED = (
    "a reward, a function of `outputs` (also of `run` and `example`, or of `prompts` and `completions`), an openevals "
    "or LangSmith evaluator, a Runnable, a text-classification pipeline, a checkpoint's folder or hub id, a (model, "
    "tokenizer) pair, a cross-encoder, or a mapping of names to these"
)


def as_reward(source: Any, *, name: str | None = None) -> Reward:
    """Return a reward.

    Args:
        source: One of

            - a reward of `aisp` or of `aisp_langchain.rewards`;
            - a function, sync or async, with any of `outputs` (an AIMessage), `inputs` (the prompt's messages) and
              `reference_outputs` as parameters, as openevals' evaluators have, or those of
              `aisp.rewards.FunctionReward`; LangSmith's `run` and `example`; or TRL's `completions` and `prompts`,
              which are given all candidates at once, as lists of messages;
            - an object with `evaluate_run(run, example)`, as LangSmith's evaluators;
            - a Runnable that takes a mapping of `inputs`, `outputs` and `reference_outputs`;
            - a text-classification pipeline of transformers, a (model, tokenizer) pair, a path or a hub id of a
              sequence classifier; an object with `predict(pairs)`, as sentence-transformers' cross-encoders;
            - a mapping of names to any of these, or a sequence of them: their sum.
        name: Of the part in traces.

    Raises:
        ConfigurationError: What can't be made a reward.
    """
    if isinstance(source, Runnable) and isinstance(inner := getattr(source, "reward", None), Reward):
        source = inner  # as `aisp_langchain.rewards.Reward` holds it
    if isinstance(source, Reward):
        return source if name is None else _renamed(source, name)
    if isinstance(source, Mapping):
        if not source:
            raise ConfigurationError("rewards is an empty mapping; give at least one reward, or None")
        return Sum(*(as_reward(part, name=key) for key, part in source.items()))
    if isinstance(source, BaseLanguageModel):
        raise ConfigurationError(
            f"rewards is the language model {type(source).__name__}, which says something and scores nothing; build a "
            "judge of it: aisp_langchain.rewards.RubricJudge, a function, or a chain of a prompt, the model and a "
            "parser, that returns a number"
        )
    if is_decision_model(source):
        raise ConfigurationError(
            f"rewards is the decision model {type(source).__name__}, which needs a question: "
            "aisp_langchain.rewards.DecisionReward(model, Noul(instructions=...))"
        )
    if isinstance(source, Runnable):
        return RunnableReward(source, name=name)
    model = _model_reward(source, name)
    if model is not None:
        return model
    if isinstance(source, Sequence) and not isinstance(source, str) and source:
        return Sum(*(as_reward(part) for part in source))
    if hasattr(source, "evaluate_run"):
        evaluate = source.aevaluate_run if getattr(source, "is_async", False) is True else source.evaluate_run

        async def awaited(run: Any, example: Any) -> Any:
            return await evaluate(run, example)

        def plain(run: Any, example: Any) -> Any:
            return evaluate(run, example)

        judged = _readable(awaited if inspect.iscoroutinefunction(evaluate) else plain)
        return FunctionReward(judged, name=name or type(source).__name__.lower(), binders=LANGCHAIN_BINDERS)
    if callable(source):
        if "completions" in _parameters(source):
            return BatchReward(_of_trl(source), name=name or getattr(source, "__name__", "function"))
        of_openevals = str(getattr(source, "__module__", "")).split(".")[0] == "openevals"
        return FunctionReward(
            _readable(source), name=name, binders=_OPENEVALS_BINDERS if of_openevals else LANGCHAIN_BINDERS
        )
    raise ConfigurationError(f"rewards is {source!r}; expected {_EXPECTED}")


def _model_reward(source: Any, name: str | None) -> Reward | None:
    """Return the reward of a model that scores; None if it is none."""
    named: dict[str, Any] = {} if name is None else {"name": name}
    if isinstance(source, Path) or (isinstance(source, str) and ("/" in source or Path(source).is_dir())):
        _there(source)
        return Classifier(source, **named)
    if getattr(source, "task", None) in ("text-classification", "sentiment-analysis"):
        return Classifier(source.model, tokenizer=source.tokenizer, **named)
    if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "config") and hasattr(source[1], "encode"):
        return Classifier(source[0], tokenizer=source[1], **named)
    if callable(getattr(source, "predict", None)) and not isinstance(source, type):
        labels = getattr(getattr(source, "config", None), "num_labels", 1)
        if labels != 1:
            raise ConfigurationError(
                f"rewards is a {type(source).__name__} of {labels} labels, and a reward is one number; take "
                'aisp.rewards.Classifier(model.model, tokenizer=model.tokenizer, input="pair", label=...)'
            )

        def predict(candidates: Sequence[Candidate]) -> Sequence[float]:
            pairs = [(last_user_text(candidate), candidate.text) for candidate in candidates]
            return list(source.predict(pairs))

        return BatchReward(predict, name=name or type(source).__name__.lower())
    return None


def _there(source: str | Path) -> None:
    """Refuse a path that leads nowhere; what could be a hub id is looked up when it is first needed."""
    path = Path(source)
    if (isinstance(source, Path) or path.is_absolute() or source.startswith(".")) and not path.is_dir():
        raise ConfigurationError(f"rewards is the path {str(source)!r}, where there is no folder; expected {_EXPECTED}")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigurationError(f"rewards is the folder {str(source)!r}, which holds no config.json of a classifier")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _of_trl(function: Callable[..., Any]) -> Callable[[Sequence[Candidate]], Any]:
    """Wrap a reward function of TRL's convention: lists of conversations in, a list of numbers out.

    Raises:
        ConfigurationError: It wants columns of a data set, which a search has none of.
    """
    parameters = _parameters(function)
    known = {"completions", "prompts"}
    wanted = [
        n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if set(wanted) - known:
        columns = ", ".join(sorted(set(wanted) - known))
        raise ConfigurationError(
            f"a batch reward function wants {columns}, columns of a data set; here there are prompts and completions"
        )

    def arguments(candidates: Sequence[Candidate]) -> dict[str, Any]:
        given = {
            "prompts": [[dict(message) for message in candidate.messages] for candidate in candidates],
            "completions": [[{"role": "assistant", "content": candidate.text}] for candidate in candidates],
        }
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return {k: v for k, v in given.items() if takes_all or k in parameters}

    async def awaited(candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return list(await function(**arguments(candidates)))

    def plain(candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return list(function(**arguments(candidates)))

    return awaited if is_async(function) else plain


class RunnableReward(Reward):
    """Scores with a Runnable that takes `{"inputs", "outputs", "reference_outputs"}`.

    Its result may be a number, a bool, or a mapping with a `score` (and a `comment`), as openevals and LangSmith
    have it. Candidates are given to `batch`, so that they run side by side.

    Args:
        runnable: What scores.
        max_concurrency: Candidates that it is given at once; None leaves that to LangChain.
        version: Of what it does, to share cache entries between processes. Without it, no two objects share any.
    """

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        *,
        name: str | None = None,
        version: str | None = None,
        max_concurrency: int | None = None,
        **options: Any,
    ) -> None:
        own = (name or getattr(runnable, "name", None) or type(runnable).__name__).replace(".", "_")
        super().__init__(name=own, **options)
        self.runnable = runnable
        self.max_concurrency = max_concurrency
        self._version = version or uuid.uuid4().hex

    def config(self) -> Mapping[str, Any]:
        return {"runnable": type(self.runnable).__qualname__, "version": self._version}

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        payloads = [payload_of(candidate) for candidate in candidates]
        if async_only(self.runnable):
            results = run(self.runnable.abatch(payloads, config=self._config()))
        else:  # on threads of its own, which it can't run out of, however deep judges are nested
            results = self.runnable.batch(payloads, config=self._config())
        return [to_verdict(result) for result in results]

    def _config(self) -> RunnableConfig:
        return {"max_concurrency": self.max_concurrency}


def async_only(runnable: Runnable[Any, Any]) -> bool:
    """Return whether a Runnable has a part that can only be awaited."""
    if isinstance(runnable, RunnableLambda):
        return not hasattr(runnable, "func")
    if isinstance(runnable, RunnableSequence):
        return any(async_only(step) for step in runnable.steps)
    if isinstance(runnable, RunnableParallel):
        return any(async_only(step) for step in runnable.steps__.values())
    return isinstance(runnable, RunnableBinding) and async_only(runnable.bound)


def _renamed(reward: Reward, name: str) -> Reward:
    clone = copy.copy(reward)
    clone.name = name
    return clone


def _readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that what it returns is read as an evaluator's result."""
    if is_async(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return to_verdict(await function(*args, **kwargs))

        return awaited

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return to_verdict(function(*args, **kwargs))

    return plain
