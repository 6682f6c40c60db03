"""The form that an answer is asked for: tools it may or must call, JSON it must be.

tools, tool_choice, response_format --make_form--> Form
Form.encode -> prompt tokens       Form.grammar -> what decoding is held to       Form.parse -> a candidate
Form.settle -> what of an unfinished one may be shown
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aisp.errors import ConfigurationError
from aisp.forms.cut import cut_by
from aisp.forms.grammars import forced_grammar, free_grammar, json_grammar, parameters_held, regex_grammar
from aisp.forms.holding import hold, violation
from aisp.forms.parsing import Parsed, parse_calls, read_json, split_reasoning
from aisp.forms.schemas import read_schema, untitled
from aisp.forms.templates import Messages, encode, traits_of
from aisp.forms.tools import Tool, name_of, parameters_of, read_choice
from aisp.forms.unfinished import visible_text
from aisp.records import Candidate, Rollout
from aisp.search.request import Request

_ASK_FOR_JSON = "Answer with one JSON object that follows this JSON schema, and with nothing else:\n{schema}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat:
    """What an answer that calls no tool is held to.

    Args:
        kind: "json" with a schema, "regex" with a pattern, "grammar" with Lark as llguidance reads it.
        source: The schema, the pattern or the grammar.
        described: Whether the prompt has to tell the model of the schema.
    """

    kind: Literal["json", "regex", "grammar"]
    source: Any
    described: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of an answer.

    Args:
        tools: What may be called.
        choice: "auto", "none", "any", or the name of the tool that must be called.
        parallel: Whether there may be several calls.
        response: What an answer that calls no tool is held to; None for any text.
        explore: Whether half of the first responses are calls where the model is free to make none, so that rewards
            choose between calling and answering even where the model hardly thinks of calling.
    """

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    response: ResponseFormat | None = None
    explore: bool = False

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the choice leaves."""
        if self.choice == "none":
            return ()
        if self.choice in ("auto", "any"):
            return self.tools
        return tuple(tool for tool in self.tools if name_of(tool) == self.choice)

    def encode(self, loaded: Any, messages: Messages, options: Mapping[str, Any]) -> list[int]:
        """Return the prompt's tokens, with what the model has to know of the form.

        Raises:
            PromptError: The template can't hold the messages.
        """
        response = self.response
        if response is not None and response.described:
            schema = json.dumps(untitled(response.source), ensure_ascii=False)
            messages = _with_system(messages, _ASK_FOR_JSON.format(schema=schema))
        return encode(loaded, messages, () if self.choice == "none" else self.tools, options)

    def grammar(self, loaded: Any) -> str | None:
        """Return what decoding is held to; None for nothing."""
        tools = self.callable_tools
        if not tools:
            return None if self.response is None else _grammar_of(self.response)
        style = traits_of(loaded).style
        if self.choice != "auto":
            return forced_grammar(tools, style, parallel=self.parallel)
        if self.response is None:
            return free_grammar(tools, style, parallel=self.parallel)
        if self.response.kind != "json":
            raise ConfigurationError(
                f"a response_format of type {self.response.kind!r} can't be had together with tools that the model is "
                "free to call; use a JSON schema, or tool_choice='none'"
            )
        return free_grammar(tools, style, parallel=self.parallel, answer=self.response.source)

    def explored(self, loaded: Any) -> str | None:
        """Return what half of the first responses are held to: a call, where there is one to explore."""
        if not self.explore or self.choice != "auto" or not self.tools:
            return None
        return forced_grammar(self.tools, traits_of(loaded).style, parallel=self.parallel)

    @property
    def held(self) -> bool:
        """Whether a grammar writes an answer from its first token, so that no part of it is reasoning."""
        return self.response is not None or (bool(self.callable_tools) and self.choice != "auto")

    def parse(self, request: Request, rollout: Rollout) -> Candidate:
        """Return what rewards and the caller see of a response.

        What was cut off is never read as if it were whole: a call becomes an invalid one that says so, and
        a structure None.
        """
        tools = self.callable_tools
        reasoning, text = None, rollout.text
        if not self.held:
            reasoning, text = split_reasoning(text, opened=request.reasoning, calls=bool(tools))
        cut = cut_by(rollout.finish_reason)
        parsed = self._calls(request, text, cut) if tools else Parsed(text=text)
        called = parsed.calls or parsed.invalid
        return Candidate(
            messages=request.messages,
            text=parsed.text if called else text,
            reasoning=reasoning,
            tool_calls=parsed.calls,
            invalid_tool_calls=parsed.invalid,
            structure=None if called else self._structure(text, cut, request.limits.stop),
            reference=request.reference,
        )

    def settle(self, request: Request, rollout: Rollout) -> str:
        """Return the beginning of the user's text that stays, of a response that isn't complete."""
        if self.callable_tools and self.choice != "auto":
            return ""  # all of it is a call
        return visible_text(
            rollout.text,
            reasoning=request.reasoning,
            calls=bool(self.callable_tools),
            stop=request.limits.stop,
            held=self.held,
        )

    def _calls(self, request: Request, text: str, cut: str | None) -> Parsed:
        grammar = request.grammar
        parsed = parse_calls(
            text,
            [name_of(tool) for tool in self.callable_tools],
            tagged=grammar is None or "<tool_call>" in grammar,
            forced=self.choice != "auto" or (cut is not None and grammar is not None and text.startswith("{")),
            answer=self.choice == "auto" and self.response is not None,
        )
        invalid = list(parsed.invalid)
        if invalid and (cut is not None or request.limits.stop):
            why = cut or "perhaps a stop string ended the response"
            invalid[-1] = {**invalid[-1], "error": f"{invalid[-1]['error']}; the call isn't complete: {why}"}
        by_name = {name_of(tool): tool for tool in self.callable_tools}
        calls = []
        for call in parsed.calls:
            broken = _violation(by_name.get(call["name"]), call["args"])
            if broken is None:
                calls.append(call)
            else:
                written = json.dumps(call["args"], ensure_ascii=False)
                error = f"the arguments of {call['name']} don't follow its schema: {broken}"
                invalid.append({**call, "args": written, "error": error})
        return Parsed(text=parsed.text, calls=tuple(calls), invalid=tuple(invalid))

    def _structure(self, text: str, cut: str | None, stop: Sequence[str]) -> Any:
        if self.response is None or self.response.kind != "json":
            return None
        try:
            value = read_json(text)
        except ValueError:
            return None  # cut off; the parser behind the model says by what
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and (cut is not None or any(string[:1] in "0123456789.eE+-" for string in stop)):
            return None  # a number has no end of its own
        if hold(self.response.source, "the JSON schema").unheld and violation(value, self.response.source):
            return None
        return value


def make_form(
    tools: Sequence[Tool] = (),
    *,
    tool_choice: Any = None,
    parallel_tool_calls: bool | None = None,
    response_format: Any = None,
    explore_calls: bool = False,
) -> Form:
    """Return the form that a call's options describe.

    Args:
        tools: As `aisp.forms.read_tools` returns them.
        tool_choice: "auto" (None), "none", "any" ("required", True), or a name; also in OpenAI's shapes.
        parallel_tool_calls: None allows several calls where the model may choose, and one where a call is forced.
        response_format: See `read_format`.
        explore_calls: See `Form`.

    Raises:
        ConfigurationError: A choice or a format that can't be read.
    """
    choice = read_choice(tool_choice, tools)
    # A choice that forces asks for a call; a small model, left to go on, makes more of them than were wanted.
    parallel = choice == "auto" if parallel_tool_calls is None else parallel_tool_calls
    return Form(
        tools=tuple(tools),
        choice=choice,
        parallel=bool(parallel),
        response=read_format(response_format),
        explore=explore_calls,
    )


def read_format(given: Any) -> ResponseFormat | None:
    """Return what a `response_format` says.

    Args:
        given: OpenAI's `{"type": "json_schema", "json_schema": {"name", "schema"}}`, `{"type": "json_object"}` (with a
            `schema`, that is held to and not described) or `{"type": "text"}`; also `{"type": "regex", "regex"}` and
            `{"type": "grammar", "grammar"}`. A class (see `aisp.forms.schemas.read_schema`) is its JSON schema.

    Raises:
        ConfigurationError: Any other shape, or a schema that can't be read or is too large.
    """
    if given is None:
        return None
    if isinstance(given, type):
        return ResponseFormat(kind="json", source=read_schema(given).schema, described=True)
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_schema" and isinstance(given.get("json_schema"), Mapping):
        wrapped = given["json_schema"]
        if isinstance(wrapped.get("schema"), (Mapping, type)):
            return ResponseFormat(kind="json", source=read_schema(wrapped).schema, described=True)
    if kind == "json_object":
        schema = given.get("schema")
        return ResponseFormat(kind="json", source={"type": "object"} if schema is None else read_schema(schema).schema)
    if kind in ("regex", "grammar") and isinstance(given.get(kind), str):
        return ResponseFormat(kind=kind, source=given[kind])
    raise ConfigurationError(
        f"response_format is {given!r}; expected a mapping of type 'json_schema' (with a `json_schema` that has a "
        "`schema`), 'json_object', 'regex' (with a `regex`), 'grammar' (with a `grammar`) or 'text'"
    )


def _grammar_of(response: ResponseFormat) -> str:
    if response.kind == "json":
        return json_grammar(response.source)
    return regex_grammar(response.source) if response.kind == "regex" else str(response.source)


def _violation(tool: Tool | None, arguments: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a call by the part of its tool's schema that it was not held to."""
    if tool is None or not parameters_held(tool).unheld:
        return None
    # A list that repeats itself is what most tools take for a set.
    return violation(arguments, parameters_of(tool), ignored=("uniqueItems",))


def _with_system(messages: Sequence[dict[str, Any]], text: str) -> Messages:
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
