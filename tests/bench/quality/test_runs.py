"""The quality benchmark on the tiny model: its runs, which go on where they were, what is read of them, its command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aisp.bench.quality.report import report
from aisp.bench.quality.runs import Quality
from aisp.bench.rivals import Pessimistic, SoftBest
from aisp.cli.bench_quality import _SCREENING, run_quality
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile
from aisp.records import Candidate, Sampling
from aisp.rewards import Contains, FunctionReward, Length
from aisp.rewards.spec import parse_reward
from aisp.service import Service
from aisp.settings import SearchSettings


@pytest.fixture
def quality(tiny, tmp_path):
    def build(**changes):
        options = {
            "model": tiny,
            "prompts": [[{"role": "user", "content": text}] for text in ("one", "two", "three")],
            "reward": Length(3, 6),
            "held_out": {"the": Contains("the")},
            "strategies": {"ours": SearchSettings(strategy="tilted_restart", num_samples=4)},
            "plain": {"t1": Sampling(temperature=1.0), "t2": Sampling(temperature=0.5)},
            "pool_size": 12,
            "budget": 12,
            "max_tokens": 8,
            "seeds": (1, 2),
            "concurrency": 3,
        }
        results = changes.pop("results", None) or ResultFile(tmp_path / "rows.jsonl", "bench quality")
        opened.append(results)
        return Quality(**{**options, **changes, "results": results})

    opened = []
    yield build
    for results in opened:
        results.close()


@pytest.fixture
def command(tiny, tmp_path, monkeypatch):
    """The command on three prompts, into the folder `out` below the test's own."""
    import aisp.models

    monkeypatch.setattr(aisp.models, "load", lambda *args, **kwargs: tiny)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")

    def run(out="out", **changes):
        options = {
            "rewards": ["length:2..4"],
            "held_out": [],
            "strategies": ["tilted_restart"],
            "rules": [],
            "plain": ["temperature=0.9"],
            "model": "tiny",
            "dtype": None,
            "budget": 8,
            "pool": 8,
            "num_samples": 4,
            "max_tokens": 6,
            "seeds": 1,
            "skip": 0,
            "limit": None,
            "concurrency": 2,
            "out": tmp_path / out,
        }
        return run_quality(tmp_path / "prompts.txt", **{**options, **changes})

    return run


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
    assert (kinds.count("pool"), kinds.count("search"), kinds.count("scores")) == (6, 6, 2 * 3 * 2)


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
    assert len(reward.calls) == 1 + 3 * 2 * 3 + 2 * 3
    assert min(reward.calls[1:]) > 1
    before = len(reward.calls)
    bench.run(lambda: None)
    assert len(reward.calls) == before, "nothing is loaded for what is done"


def test_the_report_says_what_the_rows_hold(quality):
    bench = quality()
    bench.run(lambda: None)
    made = report(bench, "t1")
    pool = np.array(bench.scores("t1", 0, bench.reward))
    assert made.answers["best_of_n, t1"].measures["reward"][0, 0, 11] == pool.max()
    row = bench.search("ours", 1, 2)
    within_four = [step["reward"] for step in row["best"] if step["drawn"] <= 4][-1]
    assert made.answers["ours"].measures["reward"][1, 1, 3] == within_four
    assert made.answers["ours"].forward_tokens[1, 1, 11] == sum(row["forward_tokens"])
    assert made.difference("ours", 12, standardised=False).mean == pytest.approx(
        (made.answers["ours"].measures["reward"] - made.answers["best_of_n, t1"].measures["reward"])[:, :, 11].mean()
    )
    assert "| ours | 8 |" in made.markdown()


def test_what_the_report_says_of_an_answer_is_that_answers(quality):
    bench = quality()
    bench.run(lambda: None)
    made = report(bench, "t1")
    ours, theirs = made.answers["ours"], made.answers[made.baseline]
    pool, rewards = bench.pool("t1", 0), np.array(bench.scores("t1", 0, bench.reward))
    outside = bench.scores("t1", 0, bench.held_out["the"])
    best = int(np.argmax(rewards))
    row = bench.search("ours", 1, 2)
    last = row["best"][-1]

    assert ours.measures["surprisal"][1, 1, 11] == pytest.approx(-last["log_prob"] / last["tokens"])
    assert ours.measures["surprisal"][1, 1, 11] > 0
    assert theirs.measures["surprisal"][0, 0, 11] == pytest.approx(-pool["log_probs"][best] / pool["tokens"][best])
    [score] = Contains("the").score([Candidate(messages=[], text=last["text"])])
    assert ours.measures["the"][1, 1, 11] == score.value
    assert theirs.measures["the"][0, 0, 11] == outside[best]
    assert theirs.measures["the"][0, 0, 0] == pytest.approx(np.mean(outside)), "one sample is any of the pool"

    scoring = bench.scoring_seconds("t1", 0, bench.reward)
    assert theirs.seconds[0, 0, 11] == pytest.approx(pool["seconds"] + scoring)
    assert ours.seconds[1, 1, 11] == pytest.approx(sum(r["seconds"] for r in row["rounds"]))
    assert ours.seconds[1, 1, :4].tolist() == [pytest.approx(row["rounds"][0]["seconds"])] * 4, "when the round ends"

    assert made.spread[0] == pytest.approx(np.std(rewards, ddof=1))
    gap = (ours.measures["reward"] - theirs.measures["reward"])[:, :, 11].mean(1)
    told = np.isfinite(made.spread)
    assert made.difference("ours", 12).mean == pytest.approx(np.mean(gap[told] / made.spread[told]))


@pytest.mark.filterwarnings("ignore::aisp.errors.RewardWarning")
def test_prompts_whose_pool_is_all_alike_have_no_unit(quality):
    bench = quality(reward=FunctionReward(lambda text: 0.7))
    bench.run(lambda: None)
    made = report(bench, "t1")
    assert np.isnan(made.spread).all()
    assert made.difference("ours", 8).prompts == 0
    assert "| ours | 8 |  |  |  | 0 |" in made.markdown()


def no_threes(score):
    """A reward that knows no text whose number of characters is a multiple of three."""

    def scored(text):
        if len(text) % 3 == 0:
            raise ValueError("a multiple of three")
        return score(text)

    return FunctionReward(scored, on_error="exclude")


def test_what_is_excluded_is_no_answer_on_either_side(quality):
    bench = quality(reward=no_threes(lambda text: -1.0 - len(text)), held_out={"known": no_threes(len)})
    bench.run(lambda: None)
    made = report(bench, "t1")
    rewards = np.array(bench.scores("t1", 0, bench.reward))
    usable = rewards[np.isfinite(rewards)]
    assert 0 < usable.size < rewards.size
    assert len(made.answers[made.baseline].measures["reward"]) == 3, "no prompt is without an answer"
    theirs = made.answers[made.baseline].measures
    assert theirs["reward"][0, 0, 0] == pytest.approx(usable.mean()), "any of those that can be returned"
    assert theirs["reward"][0, 0, 11] == usable.max()
    assert theirs["known"][0, 0, 0] == pytest.approx((-1.0 - usable).mean())
    assert np.nanmax(made.answers["ours"].measures["reward"]) < 0


def test_a_prompt_without_any_answer_is_left_out_and_told(quality, tmp_path):
    def picky(text, prompt):
        if prompt == "two":
            raise ValueError("not this one")
        return float(len(text))

    reward = FunctionReward(picky, on_error="exclude")
    bench = quality(reward=reward, rules={"soft": SoftBest(reward_temperature=0.0), "shy": Pessimistic()})
    bench.run(lambda: None)
    assert bench.search("ours", 1, 1)["best"] == []
    made = report(bench, "t1")
    for name in ("ours", "soft", "shy"):
        assert np.isfinite(made.answers[name].measures["reward"][:, :, 11]).all()
        assert made.difference(name, 12).prompts == 2
    made.plot(tmp_path / "some.png")
    assert "Without an answer on one side, and left out: 1 prompts." in made.markdown()
    with pytest.raises(ConfigurationError, match="veto less"):
        report(replace(bench, prompts=bench.prompts[1:2]), "t1")


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


def test_rows_of_another_precision_are_other_rows(quality, tiny):
    bench = quality()
    half = SimpleNamespace(name=tiny.name, model=SimpleNamespace(dtype=torch.bfloat16))
    assert bench._pool_key("t1", 0) != replace(bench, model=half)._pool_key("t1", 0)


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


def test_best_of_n_shares_the_first_round_of_what_it_is_compared_with(quality):
    bench = quality(
        strategies={
            "ours": SearchSettings(strategy="tilted_restart", num_samples=4, temperature=1.0),
            "colder": SearchSettings(strategy="tilted_restart", num_samples=4),
        },
        reward=FunctionReward(lambda text: float(sum(map(ord, text)) % 7)),
    )
    bench.run(lambda: None)
    made = report(bench, "t1")
    theirs, ours = made.compared("ours").measures, made.answers["ours"].measures
    assert [r["responses"] for r in bench.search("ours", 0, 1)["rounds"]] == [4, 4, 4]
    for measure in ("reward", "surprisal", "the"):
        assert np.array_equal(theirs[measure][:, :, :4], ours[measure][:, :, :4], equal_nan=True)
    for i, s in ((0, 0), (2, 1)):
        first, pool = ours["reward"][i, s, 3], bench.scores("t1", i, bench.reward)
        subsets = [max(first, *chosen) for chosen in combinations(pool, 4)]
        assert theirs["reward"][i, s, 7] == pytest.approx(np.mean(subsets)), "8 samples: 4 shared, and any 4"
        outside = bench.scores("t1", i, bench.held_out["the"])
        chosen = [max(four, key=lambda k: (pool[k], -k)) for four in combinations(range(12), 4)]
        mixed = [outside[k] if pool[k] > first else ours["the"][i, s, 3] for k in chosen]
        assert theirs["the"][i, s, 7] == pytest.approx(np.mean(mixed)), "what else is told is of the same answer"
    alone = made.answers[made.baseline].measures["reward"]
    assert not np.array_equal(theirs["reward"], alone)
    assert np.array_equal(made.compared("colder").measures["reward"], alone), "other samples are not best-of-n's"
    gaps = (ours["reward"] - theirs["reward"])[:, :, 11]
    assert made.difference("ours", 12, standardised=False).mean == pytest.approx(gaps.mean())


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


def test_rules_choose_from_the_baselines_pool(quality):
    bench = quality(rules={"soft": SoftBest(reward_temperature=1e9), "hard": SoftBest(reward_temperature=0.0)})
    bench.run(lambda: None)
    made = report(bench, "t1")
    pool = np.array(bench.scores("t1", 2, bench.reward))
    order = np.random.default_rng([2, 1]).permutation(12)[:8]
    assert made.answers["soft"].measures["reward"][2, 0, 7] == pytest.approx(pool[order].mean()), "any of the first 8"
    assert made.answers["hard"].measures["reward"][2, 0, 7] == pool[order].max()
    assert made.answers["hard"].forward_tokens[2, 0, 7] == pytest.approx(
        8 * np.mean(bench.pool("t1", 2)["forward_tokens"])
    )


def test_what_runs_repeat_and_what_their_weights_were_worth_is_told(quality):
    bench = quality(budget=12, strategies={"search": SearchSettings(num_samples=4)})
    bench.run(lambda: None)
    made = report(bench, "t1")
    rows = [bench.search("search", prompt, seed) for prompt in range(3) for seed in bench.seeds]
    ours, theirs = made.answers["search"], made.answers[made.baseline]
    assert ours.distinct.mean() == pytest.approx(np.mean([row["distinct"] for row in rows]))
    assert ours.ess[:, :, 7].mean() == pytest.approx(np.mean([row["ess"][1] for row in rows])), "of the second round"
    assert theirs.distinct[1, 0] == len(set(bench.pool("t1", 1)["texts"]))
    lines = made.markdown().splitlines()
    assert f"| search | 12 | {ours.distinct.mean():.1f} | {ours.ess[:, :, 7].mean():.1f} |" in lines
    assert f"| {made.baseline} | 12 | {theirs.distinct.mean():.1f} |  |" in lines
