"""The speed benchmark, on a tiny model: both sides do the work that they say, and what was measured is reported."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aisp.bench import speed
from aisp.bench.speed import Bench, Scenario, measure
from aisp.cli import app
from aisp.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def bench():
    model = tiny_model("llama", max_position_embeddings=2048)
    return Bench(model, tiny_tokenizer(), new_tokens=6, eos_token_ids=(2,))


def test_both_sides_draw_the_same_number_of_tokens(bench):
    by_name = {scenario.name: scenario for scenario in bench.scenarios()}
    short = by_name["short-8"]
    # One prefill of 40 tokens against eight; the last token of a response is run by neither.
    assert (short.ours(0), short.theirs(0)) == (40 + 8 * 5, 8 * 40 + 8 * 5)


def test_kept_prefixes_run_only_what_is_new(bench):
    kept = next(scenario for scenario in bench.scenarios() if scenario.name == "kept")
    assert kept.ours(0) == 40 + 16 * 5 + 7 * 16 * 3


def test_a_second_turn_prefills_only_what_it_adds(bench, monkeypatch):
    turn = next(scenario for scenario in bench.scenarios() if scenario.name == "second-turn")
    runs = []
    plain = bench.engine._parts.decoder.prefill
    monkeypatch.setattr(
        bench.engine._parts.decoder, "prefill", lambda t, past=None: runs.append(len(t)) or plain(t, past)
    )
    result = measure(bench, turn, 2)
    assert runs == [1500, 40, 1500] * 2
    assert result.repetitions == 2


def test_the_ratio_is_that_of_neighbours(bench, monkeypatch):
    clock = iter([0, 2, 0, 4, 0, 3, 0, 4, 0, 9, 0, 6])  # 2 against 4, 3 against 4, 9 against 6
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    result = measure(bench, Scenario(name="x", what="x", ours=lambda _: 1, theirs=lambda _: 2), 3)
    assert (result.ratio, result.ratio_low, result.ratio_high) == (0.75, 0.5, 1.5)
    assert (result.ours_seconds, result.theirs_seconds) == (3, 4)
    assert (result.ours_forward_tokens, result.theirs_forward_tokens) == (1, 2)


def test_the_command_prints_rows_and_writes_json(tmp_path):
    shape = tmp_path / "config.json"
    tiny_model("llama").config.to_json_file(shape)
    out = tmp_path / "speed.json"
    arguments = ["bench", "speed", "--random-weights", str(shape), "--scenario", "short-8", "--repetitions", "1"]
    result = CliRunner().invoke(app, [*arguments, "--new-tokens", "4", "--out", str(out)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "short-8" in result.output
    written = json.loads(out.read_text())
    [row] = written["scenarios"]
    assert row["ratio"] == pytest.approx(row["ours_seconds"] / row["theirs_seconds"])
    assert row["ours_peak_bytes"] >= 0


def test_an_unknown_scenario_or_shape_is_named(tmp_path):
    run = CliRunner().invoke
    shape = tmp_path / "config.json"
    tiny_model("llama").config.to_json_file(shape)
    result = run(app, ["bench", "speed", "--random-weights", str(shape), "--scenario", "fast"])
    assert result.exit_code == 2
    assert "there is no scenario fast" in result.output
    result = run(app, ["bench", "speed", "--random-weights", str(tmp_path / "none")])
    assert "expected a folder or file" in result.output
