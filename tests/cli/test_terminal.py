"""What reaches the terminal: no escape sequence, no table that is cut."""

from __future__ import annotations

import io
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aisp.cli.terminal import add_row, new_table, printable, printable_json, show, show_all
from aisp.rewards import FunctionReward

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31mred\x7f\r\u202egnp.exe\u2066 [bold]x[/bold]"


@given(st.text())
def test_no_character_that_a_terminal_obeys_is_printable(text):
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    shown.encode()


@given(st.text())
def test_text_without_such_characters_stays_as_it_is(text):
    plain = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Cf"))
    assert printable(plain + "\n\tend") == plain + "\n\tend"


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_stays_json(value):
    text = printable_json(value)
    assert printable(text) == text
    assert json.loads(text) == value


@pytest.fixture
def nasty(tiny, monkeypatch):
    """A model whose answers try to take the terminal over."""
    codec = type(tiny.codec.tokenizer)
    plain = codec.decode
    monkeypatch.setattr(codec, "decode", lambda self, *a, **k: NASTY if a and len(a[0]) else plain(self, *a, **k))


def commands(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    small = ("--max-tokens", 4, "--budget", 4)
    yield ("align", "Hi", "--max-tokens", 4)
    yield ("align", "Hi", "--reward", "length:1..3", *small)
    yield ("align", "Hi", "--reward", "contains:[bold]x\x1b[1m", *small)
    yield ("align", "Hi", "--reward", "sentiment", *small, "--commit-tokens", 2)
    yield ("align", "Hi", "--reward", "length:1..3", *small, "--json")
    yield ("align", "Hi", "--reward", "\x1b[31m")
    yield ("align", "Hi", "--model", "\x1b[31m", "--strategy", "\x1b[31m", "--reward", "json")
    yield ("align", "--prompts", tmp_path / "\x1b[31m", "--out", tmp_path / "x")
    yield ("demo", *small, "--model", "[bold]\x1b[31m")
    yield ("reward", "check", "--prompts", prompts, "--reward", "contains:\x1b[1m", "--samples", 2, "--max-tokens", 3)


def test_nothing_that_a_model_a_file_or_a_word_holds_steers_the_terminal(invoke, nasty, tmp_path):
    for command in commands(tmp_path):
        result = invoke(*command)
        assert not result.exception or isinstance(result.exception, SystemExit), (command, result.exception)
        left = [c for c in result.output if unicodedata.category(c) == "Cc" and c != "\n"]
        assert not left, (command, left, result.output)
        assert "\u202e" not in result.output


def test_markup_in_an_answer_is_text(invoke, nasty):
    assert "[bold]x[/bold]" in invoke("align", "Hi", "--max-tokens", 4).output


def test_an_error_of_a_reward_is_shown_without_its_escapes(invoke, monkeypatch):
    def broken(text):
        raise ValueError("\x1b[31mred")

    monkeypatch.setattr("aisp.cli.align.parse_rewards", lambda specs: FunctionReward(broken))
    result = invoke("align", "Hi", "--budget", 2, "--max-tokens", 3)
    assert result.exit_code == 1
    assert "\\x1b[31mred" in result.output.replace("\\\\", "\\")
    assert "\x1b" not in result.output


def printed(content, width):
    console = Console(file=io.StringIO(), width=width)
    show_all(console, content)
    return console.file.getvalue()


def test_a_table_is_as_wide_as_its_figures():
    table = new_table("name", *(f"a long column {i}" for i in range(12)))
    add_row(table, ["a name of some length"] + [f"{i * 1.23456789:.6f}" for i in range(12)])
    [head, row] = printed(table, 40).splitlines()
    assert "a long column 11" in head
    assert "13.580247" in row
    assert "…" not in head + row


def test_the_rounds_are_shown_in_full_on_a_narrow_terminal(invoke):
    result = invoke("align", "Hi", "--reward", "length:3..5", "--budget", 4, "--max-tokens", 4, columns=40)
    head = next(line for line in result.output.splitlines() if "best so far" in line)
    assert re.split(r"\s{2,}", head.strip()) == [
        "round", "responses", "distinct", "mean", "best", "best so far", "ESS", "KL (nats)", "tokens", "seconds",
    ]  # fmt: skip


def test_a_cell_is_text_and_not_markup():
    table = new_table("name")
    add_row(table, ["[red]x[/red] \x1b[0m"])
    assert "[red]x[/red] \\x1b[0m" in printed(table, 80)


def test_a_long_line_is_left_to_the_terminal():
    console = Console(file=io.StringIO(), width=20)
    show(console, "word " * 20)
    assert console.file.getvalue().count("\n") == 1
