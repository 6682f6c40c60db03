"""What becomes of a response: its parts, and nothing read of what was cut off as if it were whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aisp.errors import ConfigurationError
from aisp.forms import make_form, read_tools
from aisp.forms.room import check_room
from aisp.records import NO_TOKENS, Limits, Rollout

SCHEMA = {"type": "object", "properties": {"tag": {"type": "string"}}, "required": ["tag"]}
AS_JSON = {"type": "json_object", "schema": SCHEMA}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def parsed(form, text, finish_reason="stop", **request: Any):
    given = {"messages": (), "reasoning": False, "reference": None, "grammar": "", "limits": Limits(max_tokens=9)}
    rollout = Rollout(tokens=NO_TOKENS, text=text, finish_reason=finish_reason, forward_tokens=0)
    return form.parse(SimpleNamespace(**{**given, **request}), rollout)


class TestMarkers:
    @pytest.mark.parametrize("reasoning", [True, False])
    def test_what_a_grammar_wrote_holds_no_reasoning(self, reasoning):
        """Held JSON lost its head at a tag that was a part of a string."""
        candidate = parsed(make_form(response_format=AS_JSON), '{"tag": "x</think>y"}', reasoning=reasoning)
        assert (candidate.structure, candidate.reasoning) == ({"tag": "x</think>y"}, None)
        forced = make_form(read_tools([TOOL]), tool_choice="f")
        call = '<tool_call>\n{"name": "f", "arguments": {"tag": "x</think>y"}}\n</tool_call>'
        assert parsed(forced, call, reasoning=reasoning).tool_calls[0]["args"] == {"tag": "x</think>y"}

    def test_prose_is_split_only_where_the_prompt_opened_the_reasoning(self):
        text = "Use </think> to end it."
        assert parsed(make_form(), text).text == text
        assert parsed(make_form(), text, reasoning=True).text == "to end it."

    def test_an_answer_of_a_schema_beside_tools_may_spell_a_call(self):
        form = make_form(read_tools([TOOL]), response_format=AS_JSON)
        candidate = parsed(form, '{"tag": "<tool_call>"}')
        assert candidate.structure == {"tag": "<tool_call>"}
        assert candidate.invalid_tool_calls == ()

    def test_a_tag_in_prose_stays_where_no_tools_are_bound(self):
        assert parsed(make_form(), "Write <tool_call> first.").text == "Write <tool_call> first."


class TestCutOff:
    @pytest.mark.parametrize("reason", ["length", "cancelled", "stop"])
    def test_half_an_object_is_no_structure(self, reason):
        assert parsed(make_form(response_format=AS_JSON), '{"tag": "x', reason).structure is None

    def test_a_number_that_was_cut_is_no_number(self):
        form = make_form(response_format={"type": "json_object", "schema": {"type": "integer"}})
        assert parsed(form, "12").structure == 12
        assert parsed(form, "12", "length").structure is None
        assert parsed(form, "12", limits=Limits(max_tokens=9, stop=("3",))).structure is None

    @pytest.mark.parametrize(("reason", "said"), [("length", "max_tokens"), ("cancelled", "time ran out")])
    @pytest.mark.parametrize("choice", ["f", "auto"])
    @pytest.mark.parametrize("text", ['<tool_call>\n{"name": "f", "argum', '{"name": "f", "argum'])
    def test_a_call_that_was_cut_is_an_invalid_one_that_says_by_what(self, text, choice, reason, said):
        form = make_form(read_tools([TOOL]), tool_choice=choice)
        candidate = parsed(form, text, reason, grammar='"<tool_call>"')
        (invalid,) = candidate.invalid_tool_calls
        assert said in invalid["error"]
        assert (candidate.tool_calls, candidate.text) == ((), "")


@pytest.mark.filterwarnings("ignore::aisp.forms.holding.SchemaWarning")
def test_what_was_not_held_is_checked_afterwards():
    schema = {"type": "object", "properties": {"a": {"type": "string", "not": {"const": ""}}}, "required": ["a"]}
    form = make_form(response_format={"type": "json_object", "schema": schema})
    assert parsed(form, '{"a": "x"}').structure == {"a": "x"}
    assert parsed(form, '{"a": ""}').structure is None
    calls = make_form(read_tools([{"type": "function", "function": {"name": "f", "parameters": schema}}]))
    candidate = parsed(calls, '<tool_call>{"name": "f", "arguments": {"a": ""}}</tool_call>')
    assert candidate.tool_calls == ()
    assert "a: '' should not be valid" in candidate.invalid_tool_calls[0]["error"]


def test_a_request_that_has_no_room_for_its_grammar_is_refused(tiny):
    check_room(tiny, [None, 'start: "yes"'], 8)
    with pytest.raises(ConfigurationError, match="max_tokens is 2"):
        check_room(tiny, ['start: "yes it is"'], 2)
    with pytest.raises(ConfigurationError, match="can't be compiled"):
        check_room(tiny, ["start: missing"], 8)
