"""The speed benchmark, on a tiny model: both sides do the work that they say, and what was measured is reported."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from aisp.bench import growth, roofline, speed
from aisp.bench.grammar_cost import grammar_scenarios
from aisp.bench.growth import Axis, Curve, exponent, grow
from aisp.bench.speed import Bench, Scenario, measure
from aisp.cli.app import app
from aisp.cli.bench_speed import SCENARIOS, speed_table
from aisp.engines.transformers.decoder import Decoder
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
    plain = Decoder.prefill
    monkeypatch.setattr(Decoder, "prefill", lambda self, t, past=None: runs.append(len(t)) or plain(self, t, past))
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


def test_every_scenario_is_known_before_a_model_is_loaded(bench):
    assert [one.name for one in (*bench.scenarios(), *grammar_scenarios(bench))] == list(SCENARIOS)


def test_an_unknown_scenario_or_shape_is_named(tmp_path):
    run = CliRunner().invoke
    shape = tmp_path / "config.json"
    tiny_model("llama").config.to_json_file(shape)
    result = run(app, ["bench", "speed", "--random-weights", str(shape), "--scenario", "fast"])
    assert result.exit_code == 2
    assert "there is no scenario fast" in result.output
    result = run(app, ["bench", "speed", "--random-weights", str(tmp_path / "none")])
    assert "expected a folder or file" in result.output


def test_growth_is_fitted_over_all_sizes_and_over_the_largest(bench, monkeypatch):
    slow = {1: 10.0, 2: 10.0, 4: 10.0, 8: 40.0, 16: 160.0}
    clock, now = [0.0], []
    monkeypatch.setattr(growth.time, "perf_counter", lambda: clock[0])

    def work(size, turn):
        now.append((size, turn))
        clock[0] += slow[size] * (3.0 if turn == 2 else 1.0)  # one repetition on a busy machine

    curve = grow(bench, Axis(name="x", what="x", sizes=(1, 2, 4, 8, 16), work=work), 3)
    assert curve.seconds == list(slow.values())
    assert now[1:6] == [(size, 1) for size in slow]
    assert curve.exponent_at_end == pytest.approx(2.0)
    assert 0.9 < curve.exponent < 1.1
    assert curve.verdict == "worse than linear: exponent 2.00"
    line = Curve(name="", what="", sizes=[1], left_out=[], seconds=[1], exponent=0.7, exponent_at_end=1.0)
    assert line.verdict == "no worse than linear"
    assert exponent([1, 10], [5, 0.5]) == pytest.approx(-1.0)


def test_growth_does_the_work_that_it_says(bench, monkeypatch):
    drawn = []
    plain = bench.engine.rollout
    monkeypatch.setattr(
        bench.engine,
        "rollout",
        lambda prefix, proposals, *a: drawn.append((prefix.token_ids, len(proposals))) or plain(prefix, proposals, *a),
    )
    for axis in growth.axes(bench):
        axis.work(axis.sizes[1], 1)
    assert [(len(ids), n) for ids, n in drawn] == [(40, 2), (200, 8), (40, 8), (40, 8)]
    assert len({ids for ids, _ in drawn}) == 4, "a prompt that was seen before costs nothing"


def test_the_growth_command_writes_json_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "RESPONSES", (1, 2))
    monkeypatch.setattr(growth, "PROMPTS", (20, 40, 4000))
    monkeypatch.setattr(growth, "REQUESTS", (1, 2))
    shape, out, picture = tmp_path / "config.json", tmp_path / "growth.json", tmp_path / "growth.png"
    tiny_model("llama").config.to_json_file(shape)
    arguments = ["bench", "growth", "--random-weights", str(shape), "--repetitions", "1", "--new-tokens", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out), "--plot", str(picture)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "left out, since the model's context is too short: [4000]" in result.output
    assert [curve["name"] for curve in json.loads(out.read_text())["curves"]] == ["responses", "prompt", "requests"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(app, [*arguments, "--axis", "time"])
    assert result.exit_code == 2
    assert "there is no axis time" in result.output


def test_the_floor_is_weights_and_cache_over_bandwidth(bench, monkeypatch):
    tied = tiny_model("llama")  # the table is the head, and every step reads that
    weights = sum(parameter.nbytes for parameter in tied.parameters())
    # 4 tokens: a prefill and 3 steps; a step reads 10 of the prompt once, and 0, 1, 2 tokens of each of 5 rows.
    assert roofline.read_bytes(tied, 100, 10, 5, 4) == 4 * weights + 100 * (3 * 10 + 5 * 3)
    untied = tiny_model("qwen2")
    table = untied.get_input_embeddings().weight.nbytes
    assert roofline.read_bytes(untied, 100, 10, 5, 1) == sum(p.nbytes for p in untied.parameters()) - table
    short = next(scenario for scenario in bench.scenarios() if scenario.name == "short-8")
    assert measure(bench, short, 1).floor_seconds is None, "on a CPU caches make what is read a guess"
    monkeypatch.setattr(bench, "bytes_per_second", 1e6)
    result = measure(bench, short, 1)
    assert result.floor_seconds == pytest.approx(short.least_bytes / 1e6)
    assert short.least_bytes == roofline.read_bytes(bench.model, 2 * 2 * 2 * 16 * 4, 40, 8, 6)
    assert "of the floor's speed" in [column.header for column in speed_table([result]).columns]
    assert bench.engine.token_bytes == 2 * 2 * 2 * 16 * 4


def test_bandwidth_is_that_of_copies(monkeypatch):
    monkeypatch.setattr(roofline, "_BYTES", 1000)
    clock = iter([0, 1, 0, 2, 0, 1, 0, 1, 0, 9, 0, 1, 0, 1])
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    assert roofline.bandwidth(torch.device("cpu")) == 2000
