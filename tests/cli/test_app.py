"""The command line, on a tiny model: answers, files that are gone on with, and errors in one line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aisp.cli.app import app
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, read_prompts, result_key


@pytest.fixture
def invoke(tiny, monkeypatch):
    """Run the command line with the tiny model in place of any that is named."""
    monkeypatch.setattr("aisp.engines.registry.load", lambda name, **placed: tiny)

    def run(*arguments):
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={"COLUMNS": "120", "TERM": "dumb"}
        )

    return run


def test_one_prompt_shows_the_answer_its_reward_and_the_rounds(invoke, tmp_path):
    picture = tmp_path / "search.png"
    result = invoke(
        "align", "Hi", "--reward", "length:3..5", "--reward", "0.5*contains:the", "--budget", 9, "--num-samples", 4,
        "--max-tokens", 8, "--seed", 1, "--plot", picture,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "reward" in result.output
    assert "length" in result.output
    assert "best so far" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_is_the_whole_trace(invoke):
    result = invoke("align", "Hi", "--reward", "length:3..5", "--budget", 4, "--max-tokens", 6, "--seed", 0, "--json")
    trace = json.loads(result.stdout)
    assert len(trace["candidates"]) == 4
    assert trace["seed"] == 0, "an explicit zero is a zero"


def test_without_a_reward_one_plain_sample_is_drawn(invoke):
    result = invoke("align", "Hi", "--max-tokens", 4)
    assert result.exit_code == 0
    assert "one plain sample" in result.output


def test_temperature_zero_is_greedy(invoke):
    texts = [
        json.loads(invoke("align", "Hi", "--max-tokens", 6, "--temperature", 0, "--seed", seed, "--json").stdout)[
            "best"
        ]
        for seed in (1, 2)
    ]
    assert texts[0]["text"] == texts[1]["text"]


def test_a_killed_run_goes_on_where_it_stopped(invoke, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("one\n\ntwo\nthree\n")
    ask = ("align", "--prompts", prompts, "--out", out, "--reward", "length:3..5", "--budget", 3, "--max-tokens", 5)
    assert invoke(*ask, "--seed", 1).exit_code == 0
    lines = out.read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]
    out.write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])  # torn by a kill
    assert invoke(*ask, "--seed", 1).exit_code == 0
    again = out.read_text().splitlines()
    assert again[:2] == lines[:2]
    assert json.loads(again[2])["text"] == json.loads(lines[2])["text"]
    assert invoke(*ask, "--seed", 1).exit_code == 0
    assert out.read_text().splitlines() == again, "nothing is done twice"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("align",), "give one prompt"),
        (("align", "Hi", "--reward", "mood"), "names no reward"),
        (("align", "Hi", "--strategy", "magic", "--reward", "json"), "strategy"),
        (("align", "Hi", "--budget", "8"), "there are no rewards"),
        (("align", "Hi", "--reward", "json", "--budget", "0"), "budget"),
        (("align", "--prompts", "nowhere.txt", "--out", "o.jsonl"), "can't be read"),
        (("align", "--prompts", "nowhere.txt"), "--out"),
        (("align", "Hi", "--out", "o.jsonl"), "--json"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(invoke, arguments, message):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_demo_shows_all_three_at_equal_budget(invoke):
    result = invoke("demo", "--budget", 4, "--max-tokens", 6)
    assert result.exit_code == 0, result.output
    assert result.output.count("best_of_n  reward") == 3
    assert result.output.count("tilted_restart  reward") == 3
    assert "mean" in result.output


def test_models_are_listed(invoke):
    assert "smollm2-135m" in invoke("model", "list").output


def test_prompts_are_read_from_text_and_json_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n{"turns": ["c", "d"]}\n')
    assert [conversation[-1]["content"] for conversation in read_prompts(path)] == ["a", "b", "c"]
    path.write_text('{"prompt": "a"}\n{"question_id": 1}\n')
    with pytest.raises(ConfigurationError, match="line 2"):
        read_prompts(path)
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match="no prompts"):
        read_prompts(path)


def test_a_file_of_something_else_is_not_written_to(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n")
    with pytest.raises(ConfigurationError, match=r"notes\.txt is not a result file: its line 1"):
        ResultFile(path, "align")
    assert path.read_text() == "dear diary\n"
    assert result_key("a", {"b": 1, "c": 2}) == result_key("a", {"c": 2, "b": 1})
