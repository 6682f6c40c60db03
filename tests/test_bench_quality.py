"""The quality benchmark: its statistics against brute force, and a run on the tiny model that goes on where it was."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisp.bench.quality.command import run_quality
from aisp.bench.quality.report import report
from aisp.bench.quality.runs import Quality
from aisp.bench.quality.statistics import chosen_probabilities, diversity, paired
from aisp.errors import ConfigurationError
from aisp.records import Sampling
from aisp.results import ResultFile
from aisp.rewards import Contains, Length
from aisp.settings import SearchSettings


@given(rewards=st.lists(st.integers(0, 4), min_size=1, max_size=7), data=st.data())
def test_the_expected_best_of_n_is_the_mean_over_all_subsets(rewards, data):
    n = data.draw(st.integers(1, len(rewards)))
    values = np.array(rewards, dtype=float)
    subsets = [max(values[list(chosen)]) for chosen in combinations(range(len(values)), n)]
    probabilities = chosen_probabilities(values, n)
    assert probabilities.sum() == pytest.approx(1.0)
    assert probabilities @ values == pytest.approx(np.mean(subsets))


def test_the_first_of_equals_is_chosen_and_what_is_vetoed_last():
    assert chosen_probabilities(np.array([2.0, 2.0, 1.0]), 3).tolist() == [1.0, 0.0, 0.0]
    assert chosen_probabilities(np.array([np.nan, 1.0]), 2).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="1 to 2"):
        chosen_probabilities(np.array([1.0, 2.0]), 3)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    found = [paired((0.3 + rng.normal(size=(40, 1))).tolist(), seed=i) for i in range(200)]
    covered = np.mean([d.low <= 0.3 <= d.high for d in found])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 200)
    assert all(d.low <= d.bound <= d.mean <= d.high for d in found)


def test_prompts_are_what_is_drawn_not_seeds():
    few = paired([[1.0] * 50, [0.0] * 50])
    assert (few.low, few.high, few.prompts) == (0.0, 1.0, 2)


def test_diversity_counts_repeated_ngrams():
    assert diversity("one two three four five") == 1.0
    assert diversity("a b a b") == pytest.approx((2 / 3) * 1.0 * 1.0)
    assert diversity("a a a a a") == pytest.approx((1 / 4) * (1 / 3) * (1 / 2))
    assert diversity("") == 1.0


@pytest.fixture
def quality(tiny, tmp_path):
    def build(**changes):
        options = {
            "model": tiny,
            "prompts": [[{"role": "user", "content": text}] for text in ("one", "two", "three")],
            "reward": Length(3, 6),
            "held_out": {"words": Contains("the")},
            "strategies": {"ours": SearchSettings(strategy="tilted_restart", num_samples=4)},
            "plain": {"t1": Sampling(temperature=1.0), "t2": Sampling(temperature=0.5)},
            "pool_size": 12,
            "budget": 12,
            "max_tokens": 8,
            "seeds": (1, 2),
            "results": ResultFile(tmp_path / "rows.jsonl"),
            "concurrency": 3,
        }
        return Quality(**{**options, **changes})

    return build


def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(quality, tmp_path):
    first = quality(seeds=(1,))
    done = []
    first.run(lambda: done.append(1))
    assert len(done) == 2 * 3 + 3
    second = quality(results=ResultFile(tmp_path / "rows.jsonl"))
    assert len(second.tasks()) == 3, "only the new seed's searches"
    second.run(lambda: None)
    again = quality(results=ResultFile(tmp_path / "rows.jsonl"))
    assert again.tasks() == []
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (kinds.count("pool"), kinds.count("search"), kinds.count("scores")) == (6, 6, 2 * 3 * 2)


def test_the_report_says_what_the_rows_hold(quality):
    bench = quality()
    bench.run(lambda: None)
    made = report(bench, (4, 12), "t1")
    pool = np.array(bench.scores("t1", 0, bench.reward))
    assert made.answers["best_of_n, t1"].measures["reward"][0, 0, 1] == pool.max()
    row = bench.search("ours", 1, 2)
    within_four = [step["reward"] for step in row["best"] if step["drawn"] <= 4][-1]
    assert made.answers["ours"].measures["reward"][1, 1, 0] == within_four
    assert made.answers["ours"].forward_tokens[1, 1, 1] == sum(row["forward_tokens"])
    assert made.difference("ours", 1, standardised=False).mean == pytest.approx(
        (made.answers["ours"].measures["reward"] - made.answers["best_of_n, t1"].measures["reward"])[:, :, 1].mean()
    )
    text = made.markdown()
    assert "| ours | 12 |" in text
    assert "words" in text


def test_the_first_round_of_equal_seeds_is_shared(quality):
    bench = quality(
        strategies={
            "ours": SearchSettings(strategy="tilted_restart", num_samples=12),
            "plain": SearchSettings(strategy="best_of_n", num_samples=12),
        }
    )
    bench.run(lambda: None)
    ours, plain = (bench.search(name, 0, 1)["best"][-1]["text"] for name in ("ours", "plain"))
    assert ours == plain


def test_the_command_writes_rows_report_and_picture(tiny, tmp_path, monkeypatch):
    import aisp.models

    monkeypatch.setattr(aisp.models, "load", lambda *args, **kwargs: tiny)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\n")
    options = {
        "model": "tiny",
        "dtype": None,
        "budget": 8,
        "pool": 8,
        "num_samples": 4,
        "max_tokens": 6,
        "seeds": 1,
        "skip": 1,
        "limit": 2,
        "concurrency": 2,
        "out": tmp_path / "out",
    }
    strategies = ["tilted_restart:tilt_nats=0", "tilted_restart"]
    run_quality(prompts, ["length:2..4"], ["contains:the"], strategies, ["temperature=0.9,top_p=0.8"], **options)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rows.jsonl", "report.md", "report.png"}
    assert "tilted_restart:tilt_nats=0" in (tmp_path / "out" / "report.md").read_text()
    for wrong in (["magic"], ["tilted_restart:tilt=3"], ["aisp:scale"]):
        with pytest.raises(ConfigurationError):
            run_quality(prompts, ["length:2..4"], [], wrong, ["temperature=0.9"], **options)
    with pytest.raises(ConfigurationError, match="--reward"):
        run_quality(prompts, [], [], strategies, ["temperature=0.9"], **options)
