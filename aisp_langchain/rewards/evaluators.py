"""Between rewards and other ecosystems' evaluators: what they are given, and what they return."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

from aisp.errors import ConfigurationError
from aisp.records import Candidate, Message, Score
from aisp.rewards.base import Verdict, free_name
from aisp.rewards.function import last_user_text
from aisp.rewards.verdicts import as_score
from aisp_langchain.messages import to_openai


def to_verdict(result: Any) -> Verdict:
    """Return a verdict from what evaluators return.

    A number; a mapping or object with `score` and `comment`; several of those, in a sequence or under `results`, whose
    mean is the value and which stay as named parts.
    """
    if isinstance(result, Mapping):
        several = result.get("results")
        if several is not None:
            return _together([to_verdict_of(each) for each in several])
        if "score" not in result:
            raise ConfigurationError(
                f"a reward returned a mapping of {', '.join(map(str, result)) or 'nothing'}; expected a score"
            )
        return to_verdict_of(result)[1]
    if isinstance(result, Sequence) and result and all(isinstance(r, Mapping) or hasattr(r, "score") for r in result):
        return _together([to_verdict_of(each) for each in result])
    if not isinstance(result, Score) and hasattr(result, "score"):
        return to_verdict_of(result)[1]
    return result  # type: ignore[no-any-return]


def to_verdict_of(result: Any) -> tuple[str, Verdict]:
    """Return the key and the verdict of one evaluator's result."""
    if isinstance(result, Mapping):
        key, score, comment = result.get("key"), result.get("score"), result.get("comment")
    elif hasattr(result, "score"):
        key, score, comment = getattr(result, "key", None), result.score, getattr(result, "comment", None)
    else:
        key, score, comment = None, result, None
    # A score of any kind goes on as it is: whether it is a number is checked where all verdicts are.
    plain = score if comment is None or score is None else Score(value=score, comment=str(comment))
    return str(key or "score"), plain


def _together(results: Sequence[tuple[str, Verdict]]) -> Verdict:
    if not results:
        raise ConfigurationError("a reward returned no results; expected at least one score")
    parts: dict[str, float] = {}
    comments = []
    for key, verdict in results:
        score = as_score(verdict, key)
        parts[free_name(key, parts)] = score.value
        comments += [score.comment] if score.comment else []
    return Score(value=sum(parts.values()) / len(parts), parts=parts, comment="; ".join(comments) or None)


def payload_of(candidate: Candidate) -> dict[str, Any]:
    """Return what a Runnable that scores is given."""
    return {
        "inputs": inputs_of(candidate),
        "outputs": outputs_of(candidate),
        "reference_outputs": candidate.reference,
    }


def inputs_of(candidate: Candidate) -> list[BaseMessage]:
    """Return the prompt's messages."""
    return list(convert_to_messages([_with_json_arguments(message) for message in candidate.messages]))


def outputs_of(candidate: Candidate) -> AIMessage:
    """Return the response as a message."""
    calls = [{**call, "type": "tool_call"} for call in candidate.tool_calls]
    invalid = [{**call, "type": "invalid_tool_call"} for call in candidate.invalid_tool_calls]
    return AIMessage(content=candidate.text, tool_calls=calls, invalid_tool_calls=invalid)


def run_of(candidate: Candidate) -> Any:
    """Return what a LangSmith evaluator reads of a run: `inputs` and `outputs`."""
    inputs = {"messages": inputs_of(candidate), "input": last_user_text(candidate)}
    return SimpleNamespace(
        id=None, inputs=inputs, outputs={"output": candidate.text, "message": outputs_of(candidate)}, error=None
    )


def example_of(candidate: Candidate) -> Any:
    """Return what a LangSmith evaluator reads of an example; None without a reference."""
    if candidate.reference is None:
        return None
    outputs = candidate.reference if isinstance(candidate.reference, Mapping) else {"output": candidate.reference}
    return SimpleNamespace(id=None, inputs=run_of(candidate).inputs, outputs=outputs)


def candidate_of(inputs: Any, outputs: Any, reference_outputs: Any = None) -> Candidate:
    """Return the candidate that an evaluator's arguments stand for.

    Args:
        inputs: Text, messages, a prompt value, or a mapping that holds one of them.
        outputs: Text, a message, or a mapping that holds one of them.
        reference_outputs: Passed on as it is.

    Raises:
        ConfigurationError: Anything else.
    """
    message = _answer(outputs)
    return Candidate(
        messages=tuple(to_openai(_conversation(inputs))),
        text=message.text,
        tool_calls=tuple(dict(call) for call in message.tool_calls),
        invalid_tool_calls=tuple(dict(call) for call in message.invalid_tool_calls),
        reference=reference_outputs,
    )


def _conversation(inputs: Any) -> list[BaseMessage]:
    if inputs is None:
        return []
    if isinstance(inputs, PromptValue):
        return inputs.to_messages()
    if isinstance(inputs, Mapping) and "role" not in inputs:
        return _conversation(_inner(inputs, ("messages", "input", "question", "prompt", "inputs"), "inputs"))
    if isinstance(inputs, str):
        return list(convert_to_messages([("user", inputs)]))
    return list(convert_to_messages(inputs if isinstance(inputs, list | tuple) else [inputs]))


def _answer(outputs: Any) -> AIMessage:
    if isinstance(outputs, AIMessage):
        return outputs
    if isinstance(outputs, str):
        return AIMessage(content=outputs)
    if isinstance(outputs, Mapping) and "role" not in outputs:
        return _answer(_inner(outputs, ("message", "messages", "output", "answer", "response", "outputs"), "outputs"))
    if isinstance(outputs, list | tuple) and outputs:
        return _answer(outputs[-1])
    if isinstance(outputs, BaseMessage | Mapping):
        [message] = convert_to_messages([outputs if isinstance(outputs, BaseMessage) else dict(outputs)])
        if isinstance(message, AIMessage):
            return message
        return AIMessage(content=message.content)
    raise ConfigurationError(f"outputs is {outputs!r}; expected an AIMessage, text, or a mapping that holds one")


def _inner(given: Mapping[str, Any], names: Sequence[str], what: str) -> Any:
    found = next((given[name] for name in names if name in given), None)
    if found is None and len(given) == 1:
        found = next(iter(given.values()))
    if found is None:
        held = ", ".join(map(str, given)) or "nothing"
        raise ConfigurationError(f"{what} is a mapping of {held}; expected one of {', '.join(names)} in it")
    return found


def _with_json_arguments(message: Message) -> dict[str, Any]:
    """Write the arguments of tool calls as JSON again, which LangChain reads."""
    calls = [
        {**call, "function": {**call["function"], "arguments": _json(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
