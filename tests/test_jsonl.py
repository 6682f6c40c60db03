"""Result files: gone on with, locked, and never mistaken for somebody else's. Prompts, line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, check_place, read_prompts, result_key, scan_prompts

SETTINGS = {"model": "tiny", "seed": 1, "dtype": None}


def opened(path, command="align", **changes):
    return ResultFile(path, command, {**SETTINGS, **changes})


@pytest.fixture
def ours(tmp_path):
    """A result file with two rows."""
    path = tmp_path / "out.jsonl"
    with opened(path) as results:
        results.write("a", {"text": "one"})
        results.write("b", {"text": "two\u2028lines"})
    return path


def test_rows_are_found_again(ours):
    with opened(ours) as results:
        assert {key: row["text"] for key, row in results.done.items()} == {"a": "one", "b": "two\u2028lines"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"my": "only copy of something precious"}',  # has no line feed at its end: this was wiped once
        b'{"my": "only copy of something precious"}\n',
        b'{"key": "not only ours have keys", "value": 1}\n',
        b'{"aisp": "a word"}\n',
        b'{"aisp": {"command": "align", "settings": [1]}, "key": "x"}\n',
        b"dear diary\n",
        b"dear diary",
        b"What is rain?\nAnd snow?",
        b"\n",
        b"\x00\x01\x02\xff",
        b"\x89PNG\r\n\x1a\n",
        b'{"aisp": {"com',  # the beginning of a row, or of anything else
        b"[" * 100_000,
    ],
)
def test_what_is_not_ours_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a result file"):
        opened(path)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"], "and nothing is left beside it"


@pytest.mark.parametrize("tail", [b'{"aisp": {"command": "align", "ver', b'{"a'])
def test_a_torn_last_line_of_ours_is_dropped_once_there_is_more_to_write(ours, tail):
    whole = ours.read_bytes()
    ours.write_bytes(whole + tail)
    with opened(ours) as results:
        assert set(results.done) == {"a", "b"}
        assert ours.read_bytes() == whole + tail, "reading changes nothing"
        results.write("c", {"text": "three"})
    lines = ours.read_bytes().split(b"\n")
    assert b"\n".join(lines[:2]) + b"\n" == whole
    assert [json.loads(line)["key"] for line in lines[:3]] == ["a", "b", "c"]
    assert lines[3:] == [b""]


def test_a_first_row_that_was_torn_is_told_from_a_strangers_line(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"aisp": {"command": "align", "version": "0.1.0", "sett')
    with opened(path) as results:
        results.write("a", {})
    assert json.loads(path.read_bytes())["key"] == "a"


def test_a_last_row_without_a_line_feed_is_whole(ours):
    ours.write_bytes(ours.read_bytes().rstrip(b"\n"))
    with opened(ours) as results:
        assert set(results.done) == {"a", "b"}
        results.write("c", {})
    assert [json.loads(line)["key"] for line in ours.read_bytes().splitlines()] == ["a", "b", "c"]


def test_notes_below_our_rows_are_not_a_torn_row(ours):
    content = ours.read_bytes() + b"remember: these are the good ones"
    ours.write_bytes(content)
    with pytest.raises(ConfigurationError, match="line 3 was not written by aisp"):
        opened(ours)
    assert ours.read_bytes() == content


def test_an_empty_file_has_nothing_to_lose(tmp_path):
    path = tmp_path / "out.jsonl"
    path.touch()
    with opened(path) as results:
        results.write("a", {})
    assert len(path.read_text().splitlines()) == 1


def test_other_settings_are_told_by_name(ours):
    before = ours.read_bytes()
    with pytest.raises(
        ConfigurationError, match=r"begun with other settings: seed was 1 and is 2, top_p was None and is"
    ):
        opened(ours, seed=2, top_p=0.9)
    with pytest.raises(ConfigurationError, match="holds results of `aisp align`, not of `aisp bench tools`"):
        opened(ours, "bench tools")
    assert ours.read_bytes() == before
    opened(ours).close()


def test_whoever_comes_second_is_told_so_and_may_come_again_afterwards(ours):
    code = (
        "import sys; from pathlib import Path; from aisp.jsonl import ResultFile\n"
        f"ResultFile(Path(sys.argv[1]), 'align', {SETTINGS!r})"
    )

    def other():
        command = [sys.executable, "-c", code, str(ours)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})

    with opened(ours):
        done = other()
        assert done.returncode == 1
        assert "another run is writing to" in done.stderr
    assert other().returncode == 0
    with opened(ours):
        pass


def test_a_file_is_the_same_by_every_name(ours, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(ours)
    with opened(link) as results:
        with pytest.raises(ConfigurationError, match="another run"):
            opened(ours)
        results.write("c", {})
    assert link.is_symlink()
    assert len(ours.read_bytes().splitlines()) == 3


def test_a_place_that_can_not_be_written_is_told_before_there_is_anything_to_write(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "read_only").touch()
    (tmp_path / "read_only").chmod(0o444)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in {
        "none/out.jsonl": "there is no folder",
        "read_only/out.jsonl": "there is no folder",
        "folder": "it is a folder",
        "read_only": "it is read-only",
        "loop": "can't be written",
        "n" * 300: "can't be written",
        "nul\0": "can't be written",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            check_place(tmp_path / name)
    (tmp_path / "folder").chmod(0o555)
    with pytest.raises(ConfigurationError, match="is read-only"):
        check_place(tmp_path / "folder" / "out.jsonl")


def test_half_a_character_does_not_stop_a_run(tmp_path):
    with opened(tmp_path / "out.jsonl") as results:
        results.write("a", {"text": "\ud800"})
    with opened(tmp_path / "out.jsonl") as results:
        assert results.done["a"]["text"] == "\ud800"


def test_equal_questions_have_equal_keys():
    assert result_key("a", {"b": 1, "c": 2}) == result_key("a", {"c": 2, "b": 1})
    assert result_key("a") != result_key("b")


class TestPrompts:
    def read(self, tmp_path, content, name="p.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    def test_they_are_lines_of_text_or_of_json(self, tmp_path):
        lines = b'{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n{"turns": ["c", "d"]}\n'
        path = self.read(tmp_path, lines, "p.jsonl")
        assert [messages[-1]["content"] for messages in read_prompts(path)] == ["a", "b", "c"]
        assert [messages[0]["content"] for messages in read_prompts(self.read(tmp_path, b" one \r\n\r\ntwo"))] == [
            "one",
            "two",
        ]

    def test_a_mark_of_the_byte_order_is_no_text(self, tmp_path):
        assert read_prompts(self.read(tmp_path, b"\xef\xbb\xbfone\n"))[0][0]["content"] == "one"
        path = self.read(tmp_path, b'\xef\xbb\xbf{"prompt": "one"}\n', "p.jsonl")
        assert read_prompts(path)[0][0]["content"] == "one"
        with pytest.raises(ConfigurationError, match="UTF-16"):
            read_prompts(self.read(tmp_path, "one\n".encode("utf-16")))

    def test_what_json_may_hold_within_a_string_does_not_end_a_line(self, tmp_path):
        path = self.read(tmp_path, '{"prompt": "a\u2028b\x85c"}\n'.encode(), "p.jsonl")
        assert read_prompts(path)[0][0]["content"] == "a\u2028b\x85c"

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"caf\xe9", "not UTF-8: byte 4 is 0xe9"),
            (b"a\0b", "NUL"),
        ],
    )
    def test_a_bad_line_of_text_has_its_number_and_the_rest_is_there(self, tmp_path, line, reason):
        prompts = scan_prompts(self.read(tmp_path, b"one\n\n" + line + b"\ntwo\n"))
        assert [(prompt.line, prompt.index) for prompt in prompts] == [(1, 0), (3, 1), (4, 2)]
        assert [prompt.error is None for prompt in prompts] == [True, False, True]
        assert reason in prompts[1].error
        with pytest.raises(ConfigurationError, match="line 3 of "):
            read_prompts(tmp_path / "p.txt")

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ('{"question_id": 1}', "has no messages, prompt"),
            ('{"prompt": ', "not JSON"),
            ("[" * 100_000, "not JSON"),
            ('["a"]', "the JSON is a list"),
            ('{"messages": []}', "expected a list of at least one"),
            ('{"messages": "hello"}', "expected a list of at least one"),
            ('{"messages": [{"content": "x"}]}', "message 0 has no role"),
            ('{"turns": {"0": "x"}}', "has no messages, prompt"),
            ('{"prompt": "\\ud83d"}', "half of a surrogate pair"),
            ('{"messages": [{"role": "user", "content": [{"type": "text", "text": "a\\u0000"}]}]}', "NUL"),
        ],
    )
    def test_a_bad_line_of_json_says_what_is_wrong(self, tmp_path, line, reason):
        [good, bad] = scan_prompts(self.read(tmp_path, f'{{"text": "a"}}\n{line}\n'.encode(), "p.jsonl"))
        assert good.error is None
        assert reason in bad.error

    def test_no_prompts_and_no_file_are_errors(self, tmp_path):
        with pytest.raises(ConfigurationError, match="no prompts"):
            scan_prompts(self.read(tmp_path, b"\n \n"))
        with pytest.raises(ConfigurationError, match="can't be read"):
            scan_prompts(tmp_path / "none.txt")
        with pytest.raises(ConfigurationError, match="can't be read"):
            scan_prompts(tmp_path)


def test_a_file_of_the_name_that_locks_have_is_not_deleted(tmp_path):
    # Taking the lock emptied it, and letting go deleted it.
    theirs = tmp_path / ".out.jsonl.lock"
    theirs.write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something else"):
        ResultFile(tmp_path / "out.jsonl", "align")
    assert theirs.read_text() == "mine"
    theirs.write_text("")  # what a killed run left behind
    ResultFile(tmp_path / "out.jsonl", "align").close()
