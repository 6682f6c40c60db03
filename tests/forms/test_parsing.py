"""Calls in whatever way a model writes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aisp.forms.parsing import parse_calls, split_reasoning

NAMES = ("look", "go")
LOOK = {"name": "look", "args": {"at": "tree"}}


def calls(text: str) -> list[dict]:
    return [{"name": call["name"], "args": call["args"]} for call in parse_calls(text, NAMES).calls]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {"at": "tree"}}\n</tool_call>',
        '<tool_call>{"name": "look", "parameters": {"at": "tree"}}</tool_call>',
        '<tool_call>[{"name": "look", "arguments": {"at": "tree"}}]</tool_call>',
        '<tool_call>{"name": "look", "arguments": "{\\"at\\": \\"tree\\"}"}</tool_call>',
        '<tool_call>{"type": "function", "function": {"name": "look", "arguments": {"at": "tree"}}}</tool_call>',
        '<tool_call>\n{"name": "look", "arguments": {"at": "tree"}}',
        '```json\n{"name": "look", "arguments": {"at": "tree"}}\n```',
        '```\n[{"name": "look", "arguments": {"at": "tree"}}]\n```',
        '```tool_call\n{"name": "look", "args": {"at": "tree"}}\n',
        '{"name": "look", "parameters": {"at": "tree"}}',
        '  [{"name": "look", "arguments": {"at": "tree"}}]\n',
        '{"arguments": {"at": "tree"}, "name": "look"}',
    ],
)
def test_every_way_of_writing_a_call(text):
    parsed = parse_calls(text, NAMES)
    assert calls(text) == [LOOK]
    assert parsed.text == ""
    assert parsed.invalid == ()


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n{}\n</tool_call>\n<tool_call>\n{}\n</tool_call>",
        "<tool_call>{}<tool_call>{}",
        "<tool_call>[{}, {}]</tool_call>",
        "```json\n{}\n```\nand\n```json\n{}\n```",
        "{}; {}",
        "[{}, {}]",
    ],
)
def test_parallel_calls(text):
    one, other = '{"name": "look", "arguments": {"at": "tree"}}', '{"name": "go", "arguments": {}}'
    parts = text.split("{}")
    text = parts[0] + one + parts[1] + other + parts[2]
    assert calls(text) == [LOOK, {"name": "go", "args": {}}]
    ids = [call["id"] for call in parse_calls(text, NAMES).calls]
    assert len(set(ids)) == 2


def test_no_arguments():
    assert calls('<tool_call>{"name": "go"}</tool_call>') == [{"name": "go", "args": {}}]
    assert calls('<tool_call>{"name": "go", "arguments": null}</tool_call>') == [{"name": "go", "args": {}}]
    assert calls('<tool_call>{"name": "go", "arguments": ""}</tool_call>') == [{"name": "go", "args": {}}]
    assert calls("<tool_call>[]</tool_call>") == []


def test_text_round_a_call_is_kept():
    text = 'I look.\n<tool_call>{"name": "look", "arguments": {"at": "tree"}}</tool_call>\nThere.'
    assert parse_calls(text, NAMES).text == "I look.\n\nThere."


@pytest.mark.parametrize(
    "text",
    [
        "A tree.",
        "",
        '{"name": "ann", "age": 3}',
        '{"name": "look", "age": 3}',
        '```json\n{"name": "ann"}\n```',
        'He said {"name": "look", "arguments": {}} once.',
        "```python\nprint()\n```",
        "2 < 3 and {so on",
    ],
)
def test_text_stays_text(text):
    parsed = parse_calls(text, NAMES)
    assert (parsed.text, parsed.calls, parsed.invalid) == (text, (), ())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('<tool_call>{"name": "look", "arguments": {"at": "tr', "look"),
        ("<tool_call>look at the tree</tool_call>", None),
        ('<tool_call>{"name": "look", "arguments": [1]}</tool_call>', "look"),
        ('<tool_call>{"name": "", "arguments": {}}</tool_call>', ""),
        ('<tool_call>{"arguments": {}}</tool_call>', None),
        ('<tool_call>{"name": "look", "arguments": "{oops"}</tool_call>', "look"),
        ('{"name": "look", "parameters": {"at": ', "look"),
        ('```json\n{"name": "look", "arguments": {at: 1}}\n```', "look"),
    ],
)
def test_what_goes_wrong_is_an_invalid_call(text, name):
    parsed = parse_calls(text, NAMES)
    assert parsed.calls == ()
    assert parsed.text == ""
    (invalid,) = parsed.invalid
    assert invalid["name"] == name
    assert invalid["id"]
    assert invalid["error"]
    assert invalid["args"] in text or invalid["args"] == text


def test_calls_before_the_one_that_was_cut_off_survive():
    parsed = parse_calls('{"name": "go", "arguments": {}}\n{"name": "look", "argum', NAMES)
    assert [call["name"] for call in parsed.calls] == ["go"]
    assert len(parsed.invalid) == 1


def test_a_valid_call_survives_an_invalid_one():
    parsed = parse_calls('<tool_call>{"name": "go"}</tool_call><tool_call>oops</tool_call>', NAMES)
    assert [call["name"] for call in parsed.calls] == ["go"]
    assert len(parsed.invalid) == 1


@pytest.mark.parametrize(
    ("text", "reasoning", "rest"),
    [
        ("<think>\nhm\n</think>\n\nA tree.", "hm", "A tree."),
        ("<think>\n\n</think>\n\nA tree.", None, "A tree."),
        ("<think>hm", "hm", ""),
        ("A tree. <think>", None, "A tree. <think>"),
    ],
)
def test_reasoning(text, reasoning, rest):
    assert split_reasoning(text) == (reasoning, rest)


def test_the_prompt_may_have_opened_the_reasoning():
    assert split_reasoning("hm</think>A tree.", opened=True) == ("hm", "A tree.")
    assert split_reasoning("hm", opened=True) == ("hm", "")


@pytest.mark.parametrize("text", ["Use the </think> tag to end it.", '{"tag": "x</think>y"}', "It isn't <think> here."])
def test_a_marker_that_ends_nothing_is_text(text):
    """Prose that explained the tag lost its head."""
    assert split_reasoning(text) == (None, text)


def test_what_a_call_spells_does_not_end_the_reasoning_in_front_of_it():
    call = '<tool_call>{"name": "look", "arguments": {"at": "a</think>b"}}</tool_call>'
    assert split_reasoning(f"<think>hm {call}", calls=True) == ("hm", call)
    assert split_reasoning(f"<think>hm</think>{call}", calls=True) == ("hm", call)


def test_a_tag_round_no_call_is_text_where_calls_are_not_tagged():
    text = "Write <tool_call> in front of it."
    assert parse_calls(text, NAMES, tagged=False).text == text
    assert parse_calls(text, NAMES).invalid
    tagged = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    assert parse_calls(tagged, NAMES, tagged=False).calls


def test_a_tag_within_an_answer_of_a_schema_is_a_part_of_a_string():
    text = '{"note": "write <tool_call> first"}'
    assert parse_calls(text, NAMES, answer=True).text == text


def test_where_all_must_be_a_call_nothing_is_text():
    (invalid,) = parse_calls('{"name": "lo', NAMES, forced=True).invalid
    assert invalid["args"] == '{"name": "lo'


def test_json_nested_too_deeply_is_an_invalid_call():
    deep = '<tool_call>{"name": "look", "arguments": {"at": ' + "[" * 100_000
    assert parse_calls(deep, NAMES).invalid


@given(st.text())
def test_nothing_makes_it_raise(text):
    for wrapped in (text, f"<tool_call>{text}", f"```json\n{text}", '{"name": "look", "arguments": ' + text):
        parsed = parse_calls(wrapped, NAMES)
        assert all(isinstance(call["args"], dict) for call in parsed.calls)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=4))
@example({"tag": "</tool_call><tool_call>"})
def test_any_arguments_come_back(arguments):
    written = json.dumps({"name": "look", "arguments": arguments}, ensure_ascii=False)
    assert calls(f"<tool_call>\n{written}\n</tool_call>") == [{"name": "look", "args": arguments}]
