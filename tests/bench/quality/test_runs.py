"""Runs of the quality benchmark on the tiny model: rows that are made once, and go on where they were."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aisp.bench.quality import runs
from aisp.bench.quality.report import report
from aisp.cli.bench_quality import _SCREENING
from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards import Contains, FunctionReward, Length
from aisp.service import Service
from aisp.settings import SearchSettings


def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(quality, tmp_path):
    first = quality(seeds=(1,))
    done = []
    first.run(lambda: done.append(1))
    assert len(done) == 2 * 3 + 3
    first.results.close()
    second = quality()
    assert len(second.tasks()) == 3, "only the new seed's searches"
    second.run(lambda: None)
    second.results.close()
    again = quality()
    assert again.tasks() == []
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (kinds.count("pool"), kinds.count("search"), kinds.count("scores")) == (6, 6, 2 * 3 * 2 + 6)


def test_the_reward_is_loaded_in_no_runs_seconds(quality):
    class Loading(FunctionReward):
        """A reward that tells how many candidates it is called with."""

        def __init__(self):
            super().__init__(lambda text: float(len(text)))
            self.calls = []

        def _score(self, candidates):
            self.calls.append(len(candidates))
            return super()._score(candidates)

    reward = Loading()
    bench = quality(reward=reward, held_out={})
    bench.run(lambda: None)
    assert reward.calls[0] == 1, "of no run and no pool"
    assert len(reward.calls) > 1 + 3 * 2
    before = len(reward.calls)
    bench.run(lambda: None)
    assert len(reward.calls) == before, "nothing is loaded for what is done"


def test_only_finished_responses_are_answers(quality):
    bench = quality(
        strategies={
            "blocks": SearchSettings(
                strategy="blockwise", num_samples=4, strategy_options={"block_tokens": 2, "beams": 2}
            )
        },
        reward=FunctionReward(lambda text: -float(len(text)), partial=True),
        held_out={},
    )
    bench.run(lambda: None)
    settings = bench.strategies["blocks"].model_copy(update={"budget": 12, "max_tokens": 8})
    returned = Service(bench.model, bench.reward, settings).run(bench.prompts[0], seed=1).alignment
    last = bench.search("blocks", 0, 1)["best"][-1]
    assert (last["reward"], last["text"]) == (returned.best.reward, returned.text)


def test_screening_draws_what_neither_pools_nor_searches_do(quality):
    bench = quality(
        strategies={"plain": SearchSettings(strategy="best_of_n", num_samples=12, temperature=1.0)},
        reward=FunctionReward(lambda text: -float(len(text))),
    )
    bench.run(lambda: None)
    screened = replace(bench, pool_seed=_SCREENING)
    screened.run(lambda: None)
    texts = screened.pool("t1", 0)["texts"]
    assert texts != bench.pool("t1", 0)["texts"]
    for seed in bench.seeds:
        assert bench.search("plain", 0, seed)["best"][0]["text"] != texts[0]


def test_rows_of_another_precision_are_other_rows(quality, tiny):
    bench = quality()
    half = SimpleNamespace(name=tiny.name, model=SimpleNamespace(dtype=torch.bfloat16))
    assert bench._pool_key("t1", 0) != replace(bench, model=half)._pool_key("t1", 0)


def test_another_held_out_reward_makes_no_search_again(quality):
    first = quality()
    first.run(lambda: None)
    first.results.close()
    more = quality(held_out={"the": Contains("the"), "a": Contains("a")}, gold=("a",))
    assert more.tasks() == []
    before = len(more.results.done)
    more.run(lambda: None)
    assert len(more.results.done) - before == 2 * 3 + 2 * 3, "its scores of pools and searches"
    step = more.search("ours", 0, 1)["best"][-1]
    [score] = Contains("a").score([Candidate(messages=[], text=step["text"])])
    assert more.found_scores("ours", 0, 1, more.held_out["a"])[-1] == score.value


def test_rows_that_do_not_tell_how_answers_read_are_made_again(quality, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_FORMAT", 1)
    old = quality(seeds=(1,))
    old.run(lambda: None)
    old.results.close()
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace('"reading"', '"unread"'))
    monkeypatch.undo()
    new = quality(seeds=(1,))
    assert len(new.tasks()) == 2 * 3 + 3
    new.run(lambda: None)
    assert np.isfinite(report(new, "t1").answers["ours"].measures["repetition"]).all()


def test_gold_is_held_out_and_never_what_is_optimised(quality):
    bench = quality()
    with pytest.raises(ConfigurationError, match="gold is 'a'; expected a held-out reward: the"):
        replace(bench, gold=("a",))
    with pytest.raises(ConfigurationError, match="same is what is optimised"):
        replace(bench, held_out={"same": Length(3, 6)}, gold=("same",))


def test_a_pool_of_one_has_no_others_to_judge_it(quality):
    with pytest.raises(ConfigurationError, match="judged by the others"):
        quality(pool_size=1)
