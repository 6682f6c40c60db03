"""The streaming benchmark, on the tiny model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aisp.bench.streaming import ONE, WHOLE, difference
from aisp.cli.app import app

# The tiny model's answers are hardly ever of the length that is asked for.
pytestmark = pytest.mark.filterwarnings("ignore::aisp.errors.RewardWarning")


def row(arm, prompt, reward, seed=0):
    return {"arm": arm, "prompt": prompt, "settings": {"seed": seed}, "reward": reward}


def test_differences_are_paired_by_prompt():
    rows = [row(WHOLE, "a", 1.0), row(WHOLE, "b", 5.0), row("blocks of 4", "a", 0.5), row("blocks of 4", "b", 5.5)]
    found = difference(rows, "blocks of 4", "reward")
    assert (found.mean, found.prompts) == (0.0, 2)
    assert found.low == -0.5
    assert difference([*rows, row("x", "a", 3.0)], "x", "reward").mean == 2.0


def test_the_command_answers_in_every_way_and_goes_on_where_it_was(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("aisp.models.load", lambda model, **options: tiny)
    prompts, out = tmp_path / "prompts.txt", tmp_path / "rows.jsonl"
    prompts.write_text("One?\nTwo?\n")
    sizes = [
        "--budget",
        "8",
        "--num-samples",
        "4",
        "--max-tokens",
        "12",
        "--commit-tokens",
        "4",
        "--commit-tokens",
        "6",
    ]
    command = ["bench", "streaming", "--prompts", str(prompts), "--out", str(out), *sizes]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["arm"] for one in rows] == [WHOLE, ONE, "blocks of 4", "blocks of 6"] * 2
    for one in rows:
        assert 0 < one["first_text_seconds"] <= one["seconds"]
        assert one["responses"] <= (1 if one["arm"] == ONE else 8)
    assert all("blocks" in one["arm"] or one["pieces"] <= 1 for one in rows)
    assert "whole responses" in result.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert len(out.read_text().splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("options", "message"), [(["--strategy", "blockwise"], "leave commit_tokens out"), (["--strategy", "no"], "no")]
)
def test_what_cannot_be_compared_is_refused_before_loading(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("aisp.models.load", lambda *args, **kwargs: pytest.fail("it was loaded"))
    command = ["bench", "streaming", "--prompts", "none.txt", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 2
    assert message in result.output


def test_align_writes_blocks_as_they_come(tiny, monkeypatch):
    monkeypatch.setattr("aisp.models.load", lambda model, **placed: tiny)
    command = ["align", "q", "--reward", "sentiment", "--budget", "8", "--max-tokens", "12", "--seed", "1"]
    result = CliRunner().invoke(app, [*command, "--commit-tokens", "4"])
    assert result.exit_code == 0, result.output
    assert "reward" in result.output
    refused = CliRunner().invoke(app, [*command, "--commit-tokens", "4", "--reward", "length:1..3"])
    assert refused.exit_code == 2
