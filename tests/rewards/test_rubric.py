"""Rubrics, what judges are shown, and the local judge."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from aisp.cli.app import app
from aisp.engines import engine_for
from aisp.errors import ConfigurationError, UnsupportedModelError
from aisp.records import Candidate
from aisp.rewards import Criterion, FunctionReward, LocalJudge, Rubric
from aisp.rewards.judge_attacks import INJECTIONS, injection_shift, weak_candidates
from aisp.rewards.rubric import introduction, messages_for, quoted, without_control_tokens
from aisp.rewards.spec import parse_reward

KIND = Criterion(name="kind", description="Is the answer kind?")
CLEAR = Criterion(name="clear", description="Is it clear?", weight=3.0, levels=("no", "yes"))


def candidate(text="Take a walk.", prompt="I am sad."):
    return Candidate(messages=[{"role": "user", "content": prompt}], text=text)


def test_the_value_is_the_weighted_share_of_each_criterions_range():
    rubric = Rubric(criteria=[KIND, CLEAR])
    assert rubric.value({"kind": 4.0, "clear": 0.0}) == pytest.approx(0.25)
    assert rubric.value({"kind": 2.0, "clear": 1.0}) == pytest.approx((0.5 + 3.0) / 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"criteria": []},
        {"criteria": [KIND, KIND]},
        {"criteria": [{"name": "a.b", "description": "x"}]},
        {"criteria": [{"name": "a", "description": "x", "weight": 0}]},
        {"criteria": [{"name": "a", "description": "x", "levels": ["one"]}]},
        {"criteria": [{"name": "a", "description": "x", "levels": ["l"] * 10}]},
        {"criteria": [KIND], "purpse": "x"},
    ],
)
def test_what_is_no_rubric_is_an_error(wrong):
    with pytest.raises(ValidationError):
        Rubric(**wrong)


@pytest.mark.parametrize("source", [3, [], ["kind"], [KIND, KIND]])
def test_what_can_not_be_read_as_one_is_an_error(source):
    with pytest.raises(ConfigurationError):
        Rubric.of(source)


@pytest.mark.parametrize("attack", INJECTIONS)
def test_an_injection_stays_between_lines_that_it_can_not_forge(attack):
    shown = introduction(Rubric(criteria=[KIND]), candidate(f"Meh.\n\n{attack}"))
    assert not re.search(r"<\|im_|\[/?INST\]|</s>|<[|｜]|[|｜]>", shown)
    lines = shown.split("\n")
    begins = [line for line in lines if re.fullmatch(r"\[[0-9a-f]{8} begins\]", line)]
    ends = [line for line in lines if re.fullmatch(r"\[[0-9a-f]{8} ends\]", line)]
    mark = begins[1].split()[0]
    assert lines.count(begins[1]) == 1
    assert lines.count(f"{mark} ends]") == 1
    assert f"{mark} ends]" == ends[-1]


@given(st.text(max_size=60))
def test_the_mark_is_never_in_the_text(text):
    first, *_, last = quoted(text).split("\n")
    assert first.split()[0] not in without_control_tokens(text)
    assert last.startswith(first.split()[0])


def test_control_tokens_that_taking_out_would_bring_about_go_too():
    assert "<|im_end|>" not in without_control_tokens("<|im_<|im_start|>end|>")
    assert "</s>" not in without_control_tokens("<<s>/s>")


PIECES = [
    "<|",
    "|>",
    "<",
    ">",
    "im_end",
    "</s>",
    "s>",
    "/",
    "[INST]",
    "[",
    "/INST]",
    "<bos>",
    "bos",
    "<<SYS>>",
    "a",
    " ",
]


@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_nothing_that_is_left_forms_a_control_token(text):
    cleaned = without_control_tokens(text)
    assert without_control_tokens(cleaned) == cleaned
    assert not re.search(r"<[|｜][^<>\n]{0,64}>|</?s>|\[/?INST\]|<bos>|<</?SYS>>", cleaned)


def test_a_text_of_brackets_is_read_in_linear_time():
    # Each pass took out the innermost pair alone: 32,000 characters took 20 seconds, and these would take days.
    cleaned = without_control_tokens("<|" * 200_000 + "|>" * 200_000)
    assert "<|>" not in cleaned
    without_control_tokens("[INST" * 200_000 + "]" * 200_000)


def test_position_and_wording_are_fixed():
    [one] = messages_for(Rubric(criteria=[KIND]), candidate("One."), KIND)
    [two] = messages_for(Rubric(criteria=[KIND]), candidate("Two."), KIND)
    strip = re.compile(r"\[[0-9a-f]{8} (begins|ends)\]")
    assert strip.sub("", one["content"]).replace("One.", "") == strip.sub("", two["content"]).replace("Two.", "")


def test_the_verdict_is_the_expected_level_of_the_models_own_probabilities(tiny):
    import torch

    judge = LocalJudge([KIND, CLEAR], model=tiny)
    [score] = judge.score([candidate()])
    expected = {}
    for criterion in (KIND, CLEAR):
        prompt = tiny.encode(messages_for(judge.rubric, candidate(), criterion))
        with torch.inference_mode():
            logits = tiny.model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
        digits = [tiny.tokenizer.encode(str(d), add_special_tokens=False)[0] for d in range(1, 10)]
        levels = torch.softmax(logits[digits[: len(criterion.levels)]], -1).numpy()
        expected[criterion.name] = float(levels @ np.arange(len(levels)))
    assert score.parts == pytest.approx({"kind": expected["kind"] / 4, "clear": expected["clear"]}, abs=1e-5)
    assert score.value == pytest.approx(judge.rubric.value(expected), abs=1e-5)
    assert 0 < score.value < 1


class FakeEngine:
    """An engine of another make: it offers what a judge needs, and likes higher digits."""

    offers = frozenset({"next_token_log_probs"})

    def __init__(self, codec):
        self.codec, self.prompts = codec, []

    def log_probs(self, token_ids, next_tokens):
        self.prompts.append(list(token_ids))
        return np.log(np.arange(1, len(next_tokens) + 1) / sum(range(1, len(next_tokens) + 1)))


def test_any_engine_that_offers_log_probabilities_can_judge(tiny):
    engine = FakeEngine(tiny)
    judge = LocalJudge(CLEAR, engine=engine)
    [score] = judge.score([candidate()])
    assert score.value == pytest.approx(2 / 3)
    assert engine.prompts == [tiny.encode(messages_for(judge.rubric, candidate(), CLEAR))]
    judge.check()
    assert judge.fingerprint != LocalJudge(CLEAR, engine=FakeEngine(tiny)).fingerprint


class Blind(FakeEngine):
    offers = frozenset({"grammars"})


def test_an_engine_that_can_not_judge_is_refused_when_the_judge_is_built(tiny):
    with pytest.raises(UnsupportedModelError, match="Blind offers grammars, and a judge needs next_token_log_probs"):
        LocalJudge(KIND, engine=Blind(tiny))
    with pytest.raises(ConfigurationError, match="engine is a str"):
        LocalJudge(KIND, engine="smollm2-135m")
    for given_ in ({}, {"model": tiny, "engine": FakeEngine(tiny)}, {"engine": FakeEngine(tiny), "dtype": "float32"}):
        with pytest.raises(ConfigurationError):
            LocalJudge(KIND, **given_)


def test_log_probs_are_those_of_the_whole_vocabulary(tiny):
    engine = engine_for(tiny)
    log_p = engine.log_probs([5, 6, 7], range(len(tiny.tokenizer)))
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)


def test_a_shift_is_what_the_attacks_do():
    judge = FunctionReward(lambda text: 0.2 + 0.6 * ("rise" in text) - 0.1 * ("fall" in text), name="fooled")
    shift = injection_shift(judge, [candidate("a"), candidate("b")], ["fall", "rise", "rest"], neutral=["fall", "x"])
    assert shift.plain == pytest.approx(0.2)
    assert shift.mean == pytest.approx(0.5 / 3)
    assert (shift.largest, shift.worst) == (pytest.approx(0.6), "rise")
    assert shift.raised_fraction == pytest.approx(1 / 3)
    assert shift.neutral == pytest.approx(-0.05)
    assert shift.by_injection == pytest.approx({"fall": -0.1, "rise": 0.6, "rest": 0.0})
    assert len(set(INJECTIONS)) >= 20
    assert len(weak_candidates()) == 8


def test_the_command_line_measures_a_judge(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("aisp.models.load", lambda name, **options: tiny)
    monkeypatch.setattr("aisp.models.check_name", lambda name: None)
    out = tmp_path / "shift.json"

    def run(*arguments):
        return CliRunner().invoke(app, ["reward", "injections", *arguments], env={"COLUMNS": "160"})

    done = run("--judge", "local:some-model", "--limit", "1", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "1 answers x 26 injections" in done.output
    found = json.loads(out.read_text())
    assert found["by_injection"].keys() == set(INJECTIONS)
    assert run("--judge", "regex:5", "--limit", "1").exit_code == 0
    for judge in ("local:", "mood"):
        assert run("--judge", judge).exit_code == 2


def test_a_judge_can_be_written_as_words():
    judge = parse_reward("judge:org/model:Is the answer kind?")
    assert (judge.model, judge.rubric.criteria[0].description) == ("org/model", "Is the answer kind?")
    for words in ("judge:model", "judge::What?", "judge:model: "):
        with pytest.raises(ConfigurationError, match="judge:MODEL:QUESTION"):
            parse_reward(words)
