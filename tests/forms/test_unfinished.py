"""What is shown of an unfinished answer is a beginning of the finished one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisp.forms.parsing import parse_calls, split_reasoning
from aisp.forms.unfinished import stable_prefix, visible_text

CALL = '{"name": "look", "arguments": {"at": "brook"}}'
ANSWERS = [
    "It is an oak. No more.",
    f"Let me see. <tool_call>{CALL}</tool_call>",
    f"Let me see.\n```json\n{CALL}\n```",
    "Some code:\n```python\nprint(1)\n```\nand `more` of it.",
    'Data:\n```json\n{"a": 1}\n```\nis all.',
    CALL,
    f"  \n{CALL}",
    "  An oak.  ",
    f"<think>Where? {CALL}</think>\n\nAn oak.",
    f"<think>Where?</think>I look. <tool_call>\n{CALL}\n</tool_call>",
    "a < b, <b> and ```",
]


def finished(text, calls):
    _, answer = split_reasoning(text, calls=calls)
    parsed = parse_calls(answer, ["look"]) if calls else None
    return parsed.text if parsed and (parsed.calls or parsed.invalid) else answer


@pytest.mark.parametrize("calls", [True, False])
@pytest.mark.parametrize("text", ANSWERS)
def test_every_beginning_shows_a_beginning(text, calls):
    final, shown = finished(text, calls), ""
    for end in range(len(text) + 1):
        now = visible_text(text[:end], reasoning=False, calls=calls)
        assert final.startswith(now)
        assert now.startswith(shown), "nothing is taken back"
        shown = now
    if calls and CALL in text:
        assert "arguments" not in shown


def test_text_is_shown_as_it_comes():
    assert visible_text("It is an", reasoning=False, calls=True) == "It is an"
    assert visible_text("Code:\n```python\nprint(1)\n``", reasoning=False, calls=True) == "Code:\n```python\nprint(1)"
    assert visible_text("See. <tool", reasoning=False, calls=True) == "See."
    assert visible_text("See. <tool", reasoning=False, calls=False) == "See. <tool"
    assert visible_text("Where?</think>Here", reasoning=True, calls=False) == "Here"
    assert visible_text("Where?", reasoning=True, calls=False) == ""


def test_a_marker_in_prose_or_in_what_a_grammar_wrote_holds_nothing_back():
    prose = "Close it by </think> and go on."
    assert visible_text(prose, reasoning=False, calls=False) == prose
    assert visible_text("<think> is a tag", reasoning=False, calls=False, held=True) == "<think> is a tag"
    assert visible_text('{"tag": "</think>"}', reasoning=True, calls=False, held=True) == '{"tag": "</think>"}'


def test_a_call_within_reasoning_shows_nothing_of_its_arguments():
    text = '<think>Where? <tool_call>{"name": "look", "arguments": {"at": "</think>oak"}}'
    assert all(visible_text(text[:end], reasoning=False, calls=True) == "" for end in range(len(text) + 1))


@given(st.text(alphabet="abXY", max_size=20), st.lists(st.text(alphabet="abXY", min_size=1, max_size=4), max_size=3))
def test_what_is_settled_outlives_any_stop_string(text, stop):
    first = min((text.index(string) for string in stop if string in text), default=len(text))
    shown = ""
    for end in range(first + 1):
        if any(string in text[:end] for string in stop):
            break
        now = stable_prefix(text[:end], stop)
        assert now.startswith(shown)
        assert text[:first].startswith(now)
        shown = now


def test_bytes_of_a_character_are_waited_for():
    assert stable_prefix("a\ufffd\ufffd") == "a"
    assert stable_prefix("a\ufffdb") == "a\ufffdb"
