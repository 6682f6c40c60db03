"""The command of the quality benchmark, on the tiny model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from aisp.cli.bench_quality import _SCREENING
from aisp.cli.compared import labels
from aisp.engines import engine_for
from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards.spec import parse_reward


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strategies": ["soft_best_of_n"]}, "give it as --rule soft_best_of_n"),
        ({"rules": ["tilted_restart"]}, "give a strategy as --strategy tilted_restart"),
        ({"strategies": ["best_of_n:target_reward=0"]}, "sets target_reward"),
        ({"strategies": ["best_of_n:seed=3"]}, "sets seed"),
        ({"strategies": ["best_of_n:size=3"]}, "--strategy best_of_n:size=3"),
        ({"plain": ["temp=0.8"]}, "expected temperature, top_p or top_k"),
        ({"strategies": ["aisp:preset"]}, "expected 'module:Class'"),
    ],
)
def test_words_that_the_benchmark_can_not_take_are_refused(command, options, told):
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        command(**options)


def test_the_command_writes_rows_report_and_picture(command, tmp_path):
    command(
        held_out=["contains:the"],
        strategies=["tilted_restart:tilt_nats=0", "tilted_restart"],
        rules=["soft_best_of_n"],
        plain=["temperature=0.9,top_p=0.8"],
        skip=1,
        limit=2,
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rows.jsonl", "report.md", "report.png"}
    assert "tilted_restart:tilt_nats=0" in (tmp_path / "out" / "report.md").read_text()
    for wrong in (["magic"], ["tilted_restart:tilt=3"], ["aisp:scale"]):
        with pytest.raises(ConfigurationError):
            command(strategies=wrong)
    with pytest.raises(ConfigurationError, match="--reward"):
        command(rewards=[])


def test_prompts_are_kept_where_the_held_out_reward_of_best_of_n_is_within_bounds(command, tmp_path):
    def run(out, between):
        return command(
            out,
            held_out=["length:15..16:characters"],
            strategies=["best_of_n"],
            plain=["temperature=0.9", "temperature=0.5"],
            budget=16,
            between=between,
        )

    def rows(out):
        return [json.loads(line) for line in (tmp_path / out / "rows.jsonl").read_text().splitlines()]

    assert len(run("all", (-9, 9)).spread) == 3
    chosen, others = (parse_reward(spec) for spec in ("length:2..4", "length:15..16:characters"))
    levels = []
    for texts in (row["texts"] for row in rows("all") if row["kind"] == "pool" and row["seed"] == _SCREENING):
        candidates = [Candidate(messages=[], text=text) for text in texts]
        best = int(np.argmax([score.value for score in chosen.score(candidates)]))
        levels.append(others.score(candidates)[best].value)
    levels = np.array(levels)
    one = float(levels.max())
    within = int((levels == one).sum())
    assert within < 3, "prompts that can be told apart"
    kept = run("kept", (one - 1e-9, one + 1e-9))
    assert len(kept.spread) == within
    pools = [(row["plain"], row["seed"]) for row in rows("kept") if row["kind"] == "pool"]
    assert pools.count(("temperature=0.9", _SCREENING)) == 3
    assert pools.count(("temperature=0.9", 0)) == pools.count(("temperature=0.5", 0)) == within, "samples of their own"
    first, other = (
        [r["texts"] for r in rows("all") if r["kind"] == "pool" and r["seed"] == s] for s in (0, _SCREENING)
    )
    assert not any(texts in other for texts in first)
    assert [row["kind"] for row in rows("kept")].count("search") == within
    with pytest.raises(ConfigurationError, match="nowhere between 7 and 8"):
        run("kept", (7, 8))


def test_gold_pairs_and_win_rates_are_in_the_report(command, tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.setattr("aisp.models.check_name", lambda name: None)
    monkeypatch.setattr("aisp.engines.engine_for", lambda model, **options: tiny_engine)
    tiny_engine = engine_for(tiny)
    made = command(
        gold=["length:15..16:characters"],
        pairwise=["judge:/some/where/judging:Is it kind?"],
        strategies=["tilted_restart:tilt_nats=0"],
        shown=2,
        budget=16,
        pool=16,
    )
    text = (tmp_path / "out" / "report.md").read_text()
    assert made.gold == ("length:15..16:characters",)
    assert "| length:15..16:characters | tilted_restart:tilt_nats=0 | responses | 8 | 8 |" in text
    assert "| judge:judging:Is it kind? | tilted_restart:tilt_nats=0 | 16 responses | 16 |" in text
    assert "**2 pairs of answers** after 16 responses" in text
    assert "Prompt 2, seed 1:" in text
    told = capsys.readouterr().out
    assert "**2 pairs of answers**" in told
    assert max(map(len, told.splitlines())) < 1000, "tables are as wide as they are, sentences as the terminal"
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert 0 < kinds.count("pair") <= 6


def test_what_a_model_wrote_steers_no_terminal_from_the_report(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("aisp.cli.bench_quality.shown_pairs", lambda *_: "an answer \x1b[31m in red")
    command(shown=1)
    for text in ((tmp_path / "out" / "report.md").read_text(), capsys.readouterr().out):
        assert "an answer \\x1b[31m in red" in text
        assert "\x1b[31m in red" not in text


def test_names_in_tables_are_without_folders_unless_two_would_be_alike():
    assert labels(["classifier:/a/b/size:pair", "judge:/m/x:Is it kind and/or clear|short?", "length:2..4"]) == {
        "classifier:/a/b/size:pair": "classifier:size:pair",
        "judge:/m/x:Is it kind and/or clear|short?": "judge:x:Is it kind and/or clear/short?",
        "length:2..4": "length:2..4",
    }
    alike = ["classifier:/a/size", "classifier:./b/size"]
    assert labels(alike) == dict(zip(alike, alike, strict=True))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gold": ["length:2..4"]}, "length:2..4 is what is optimised"),
        ({"pairwise": ["sentiment"]}, "expected judge:MODEL:QUESTION"),
        ({"shown": -1}, "--show is -1"),
        ({"pool": 1}, "--pool is 1; expected a number >= 2"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_a_model_is_loaded(command, monkeypatch, options, told):
    monkeypatch.setattr("aisp.models.load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        command(**options)


def test_gold_chooses_no_prompts(command):
    made = command(gold=["length:900..1000"], between=(-99, 99), budget=4)
    assert len(made.spread) == 3
    with pytest.raises(ConfigurationError, match=r"nowhere between -0\.9"):
        command("other", gold=["length:900..1000"], between=(-0.99, -0.98))
