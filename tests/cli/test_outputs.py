"""Files that commands write at their end: found to be writable before a model is loaded, and never somebody else's."""

from __future__ import annotations

import json
import sys

import pytest

from aisp.cli.outputs import check_distinct, check_figures, check_picture, check_report, write_figures, write_report
from aisp.errors import ConfigurationError
from aisp.plot import SUFFIXES, new_figure, save_figure
from aisp.testing import tiny_model

NOTES = "dear diary\n"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n")
    return path


@pytest.fixture
def notes(tmp_path):
    """Files of somebody else, one of each kind that commands write."""
    paths = {name: tmp_path / f"notes.{name}" for name in ("json", "jsonl", "md", "png", "svg")}
    for path in paths.values():
        path.write_text(NOTES)
    return paths


def commands(prompts, folder):
    """Each option that writes: the command without it, the option, and the kind of its file."""
    rewarded = ("--prompts", prompts, "--reward", "length:1..3")
    yield ("align", "Hi", "--reward", "json"), "--plot", "png"
    yield ("align", "--prompts", prompts), "--out", "jsonl"
    yield ("demo",), "--plot", "svg"
    yield ("reward", "check", *rewarded), "--out", "json"
    yield ("reward", "check", *rewarded), "--plot", "png"
    yield ("reward", "injections", "--judge", "sentiment"), "--out", "json"
    yield ("bench", "speed"), "--out", "json"
    yield ("bench", "growth"), "--out", "json"
    yield ("bench", "growth"), "--plot", "png"
    yield ("bench", "tools"), "--out", "jsonl"
    yield ("bench", "streaming", "--prompts", prompts), "--out", "jsonl"


def test_no_command_writes_over_what_it_did_not_write(invoke, nothing_is_loaded, prompts, notes, tmp_path):
    for command, option, kind in commands(prompts, tmp_path):
        result = invoke(*command, option, notes[kind])
        assert result.exit_code == 2, (command, option, result.output)
        assert "nothing was changed" in result.output
    assert all(path.read_text() == NOTES for path in notes.values())


def test_a_folder_that_is_not_there_is_told_before_the_model_is_loaded(invoke, nothing_is_loaded, prompts, tmp_path):
    for command, option, kind in commands(prompts, tmp_path):
        result = invoke(*command, option, tmp_path / "none" / f"out.{kind}")
        assert result.exit_code == 2, (command, option, result.output)
        assert "there is no folder" in result.output


def test_the_quality_benchmark_looks_at_all_of_its_files(invoke, nothing_is_loaded, prompts, tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    for name in ("rows.jsonl", "report.md", "report.png"):
        (out / name).write_text(NOTES)
        result = invoke("bench", "quality", "--prompts", prompts, "--reward", "json", "--out", out)
        assert result.exit_code == 2
        assert name in result.output
        assert (out / name).read_text() == NOTES
        (out / name).unlink()
    result = invoke("bench", "quality", "--prompts", prompts, "--reward", "json", "--out", out, "--name", "../notes")
    assert "without a folder" in result.output
    assert list(out.iterdir()) == []


def test_a_picture_that_can_not_be_drawn_is_told_before_the_model_is_loaded(
    invoke, nothing_is_loaded, tmp_path, monkeypatch
):
    ask = ("align", "Hi", "--reward", "json", "--plot")
    assert "expected one of .png, .svg, .pdf" in invoke(*ask, tmp_path / "search.gif").output
    assert "has no suffix" in invoke(*ask, tmp_path / "search").output
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke(*ask, tmp_path / "search.png")
    assert result.exit_code == 2
    assert "aisp-langchain[plot]" in result.output


def test_rewards_are_asked_before_the_model_is_loaded(invoke, nothing_is_loaded, prompts, tmp_path, monkeypatch):
    def missing(self):
        raise ConfigurationError("its package is missing")

    monkeypatch.setattr("aisp.rewards.Reward.check", missing, raising=False)
    monkeypatch.setattr("aisp.rewards.Sentiment.check", missing, raising=False)
    outs = {kind: tmp_path / f"out.{kind}" for kind in ("png", "jsonl")}
    for command in (
        ("align", "Hi", "--reward", "sentiment"),
        ("align", "--prompts", prompts, "--out", outs["jsonl"], "--reward", "sentiment"),
        ("demo",),
        ("reward", "check", "--prompts", prompts, "--reward", "sentiment"),
        ("reward", "injections", "--judge", "sentiment"),
        ("bench", "quality", "--prompts", prompts, "--reward", "sentiment", "--out", tmp_path / "results"),
        ("bench", "streaming", "--prompts", prompts, "--out", outs["jsonl"]),
    ):
        result = invoke(*command)
        assert result.exit_code == 2, (command, result.output)
        assert "its package is missing" in result.output
    assert not outs["jsonl"].exists()


def test_what_a_command_wrote_it_may_write_again_and_no_other(tmp_path):
    path = tmp_path / "figures.json"
    write_figures(path, "bench speed", {"x": 1})
    check_figures(path, "bench speed")
    assert json.loads(path.read_text())["x"] == 1
    with pytest.raises(ConfigurationError, match="holds what `aisp bench speed` wrote"):
        check_figures(path, "bench growth")
    report = tmp_path / "report.md"
    write_report(report, "bench quality", "| a |\n")
    check_report(report, "bench quality")
    with pytest.raises(ConfigurationError, match="not written by aisp"):
        check_report(path, "bench quality")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_say_what_drew_them(tmp_path, suffix):
    ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
    figure = new_figure(1, 1)
    save_figure(figure, ours)
    check_picture(ours)
    figure.text(0, 0, "aisp-langchain 0.1.0")  # naming the package does not make a picture ours
    figure.savefig(theirs, metadata={"Title": "aisp-langchain"})
    with pytest.raises(ConfigurationError, match="not written by aisp"):
        check_picture(theirs)


def test_one_path_is_not_for_two_files(tmp_path):
    with pytest.raises(ConfigurationError, match="given for two files"):
        check_distinct([tmp_path / "a.png", None, tmp_path / "x" / ".." / "a.png"])
    check_distinct([None, None, tmp_path / "a"])


def test_a_benchmark_goes_on_in_its_own_file_with_its_own_settings(invoke, prompts, tmp_path):
    out = tmp_path / "rows.jsonl"
    sizes = ("--budget", 4, "--num-samples", 2, "--max-tokens", 6, "--commit-tokens", 3)
    ask = ("bench", "streaming", "--prompts", prompts, "--out", out, *sizes)
    assert invoke(*ask).exit_code == 0
    before = out.read_bytes()
    result = invoke(*ask, "--num-samples", 4)
    assert result.exit_code == 2
    assert "num_samples was 2 and is 4" in result.output
    assert "holds results of `aisp bench streaming`" in invoke("align", "--prompts", prompts, "--out", out).output
    assert out.read_bytes() == before
    assert invoke(*ask, "--commit-tokens", 2).exit_code == 0, "another way of answering is more rows"
    assert out.read_bytes().startswith(before)


def test_speed_figures_are_written_again(invoke, tmp_path):
    shape, out = tmp_path / "config.json", tmp_path / "speed.json"
    tiny_model("llama").config.to_json_file(shape)
    ask = ("bench", "speed", "--random-weights", shape, "--scenario", "short-8", "--repetitions", 1, "--new-tokens", 3)
    for _ in range(2):
        assert invoke(*ask, "--out", out).exit_code == 0
        assert len(json.loads(out.read_text())["scenarios"]) == 1
