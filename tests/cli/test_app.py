"""The command line, on a tiny model: answers, files that are gone on with, and errors in one line."""

from __future__ import annotations

import json

import pytest

from aisp import models


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


def test_a_line_that_can_not_be_answered_is_told_and_the_rest_goes_on(invoke, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_bytes(b"\xef\xbb\xbfone\nbad \xff byte\nnul \0 here\n" + b"long " * 600 + b"\ntwo\n")
    ask = ("align", "--prompts", prompts, "--out", out, "--max-tokens", 4, "--seed", 1)
    result = invoke(*ask)
    assert result.exit_code == 1
    said = result.output.splitlines()
    assert any("line 2 of" in line and "0xff" in line for line in said)
    assert any("line 3 of" in line and "NUL" in line for line in said)
    assert any("line 4 of" in line and "context holds 512" in line for line in said)
    assert "2 answers in" in said[-2]
    assert "3 prompts in" in said[-1]
    assert said[-1].endswith("not answered: lines 2, 3, 4")
    assert [json.loads(line)["index"] for line in out.read_text().splitlines()] == [0, 4]
    prompts.write_text("one\nmended\nnul\nshort\ntwo\n")
    again = invoke(*ask)
    assert again.exit_code == 0, again.output
    assert "5 answers in" in again.output
    assert ", 3 of them new" in again.output


def test_a_prompt_whose_answers_are_all_vetoed_does_not_stop_the_others(invoke, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("one\ntwo\n")
    ask = ("align", "--prompts", prompts, "--out", out, "--budget", 2, "--max-tokens", 4, "--seed", 1)
    result = invoke(*ask, "--reward", "veto:length:90..99")
    assert result.exit_code == 1
    assert "line 1 of" in result.output
    assert "line 2 of" in result.output
    assert not out.exists(), "there is nothing to write"


def test_answers_go_to_a_result_file_of_the_same_settings_alone(invoke, nothing_is_loaded, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("one\n")
    out.write_text('{"my": "only copy"}')
    result = invoke("align", "--prompts", prompts, "--out", out)
    assert result.exit_code == 2
    assert "not a result file" in result.output
    assert out.read_text() == '{"my": "only copy"}'
    assert invoke("align", "--prompts", prompts, "--out", prompts).exit_code == 2, "nor to the prompts themselves"
    assert prompts.read_text() == "one\n"


def test_other_settings_are_another_file(invoke, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("one\n")
    ask = ("align", "--prompts", prompts, "--out", out, "--max-tokens", 4)
    assert invoke(*ask, "--seed", 0).exit_code == 0
    before = out.read_bytes()
    for other, told in (
        (("--seed", 1), "seed was 0 and is 1"),
        ((), "seed was 0 and is None"),
        (("--seed", 0, "--reward", "json"), "rewards was []"),
        (("--seed", 0, "--model", "other"), "model was"),
        (("--seed", 0, "--dtype", "bfloat16"), "dtype was None"),
    ):
        result = invoke(*ask, *other)
        assert result.exit_code == 2
        assert told in result.output
    assert out.read_bytes() == before


def test_more_prompts_are_more_answers_in_the_same_file(invoke, tmp_path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    ask = ("align", "--prompts", prompts, "--out", out, "--max-tokens", 4, "--seed", 1)
    prompts.write_text("one\n")
    assert invoke(*ask).exit_code == 0
    prompts.write_text("three\n")
    result = invoke(*ask)
    assert "1 answers in" in result.output
    assert "also holds 1 answers to other prompts" in result.output


def test_dtype_and_device_reach_the_model(invoke, tiny, monkeypatch):
    placed = {}
    monkeypatch.setattr(models, "load", lambda name, **given: placed.update(given) or tiny)
    assert invoke("align", "Hi", "--max-tokens", 3, "--dtype", "float32", "--device", "cpu").exit_code == 0
    assert placed == {"dtype": "float32", "device": "cpu"}


def test_a_prompt_that_is_not_text_is_refused(invoke, nothing_is_loaded):
    result = invoke("align", "caf\udce9")
    assert result.exit_code == 2
    assert "surrogate" in result.output


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line(invoke):
    result = invoke("align", "Hi", "--max-tokens", 3, "--temperature", 0, "--top-k", 3)
    assert result.exit_code == 0, result.output
    assert result.output.count("warning: top_p and top_k have no effect") == 1
    assert "settings.py" not in result.output


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused_and_not_answered(invoke, nothing_is_loaded, prompt):
    result = invoke("align", prompt)
    assert result.exit_code == 2
    assert "the prompt is empty" in result.output
