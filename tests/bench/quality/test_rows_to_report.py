"""What the report reads of the rows of runs on the tiny model."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from aisp.bench.quality.picture import draw
from aisp.bench.quality.reading import MEASURED, PlainRange, held_out_shares
from aisp.bench.quality.report import report
from aisp.bench.quality.tables import as_markdown
from aisp.bench.rivals import Pessimistic, SoftBest
from aisp.errors import ConfigurationError
from aisp.records import Candidate, Score
from aisp.rewards import Contains, FunctionReward
from aisp.settings import SearchSettings


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
    assert "| ours | 8 |" in as_markdown(made)


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
    assert ours.seconds[1, 1, 11] == row["seconds_at"][-1]
    assert ours.seconds[1, 1, :4].tolist() == row["seconds_at"][:4], "when each was scored"

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
    assert "| ours | 8 |  |  |  | 0 |" in as_markdown(made)


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
    draw(made, tmp_path / "some.png")
    assert "Without an answer on one side, and left out: 1 prompts." in as_markdown(made)
    with pytest.raises(ConfigurationError, match="veto less"):
        report(replace(bench, prompts=bench.prompts[1:2]), "t1")


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
    lines = as_markdown(made).splitlines()
    assert f"| search | 12 | {ours.distinct.mean():.1f} | 0.0 | {ours.ess[:, :, 7].mean():.1f} |" in lines
    assert f"| {made.baseline} | 12 | {theirs.distinct.mean():.1f} | 0.0 |  |" in lines


def test_how_answers_read_is_told_of_both_sides_against_the_baselines_pool(quality):
    bench = quality()
    bench.run(lambda: None)
    made = report(bench, "t1")
    ours, colder = made.answers["ours"].measures, made.answers["best_of_n, t2"].measures
    for name in MEASURED:
        value = bench.search("ours", 1, 2)["best"][-1]["reading"][name]
        assert ours[name][1, 1, 11] == value
        assert bench.pool("t1", 1)["reading"][name][0] is not None
    pools = {name: bench.pool(name, 1)["reading"] for name in ("t1", "t2")}
    readings = {key: {name: np.array(values) for name, values in pool.items()} for key, pool in pools.items()}
    typical = PlainRange.of(readings["t1"])
    for word, figure in (("loop", "least_window"), ("salad", "greatest_window"), ("repeats", "repetition")):
        bound = getattr(typical, figure)
        over = [value < bound if word == "loop" else value > bound for value in readings["t2"][figure]]
        assert colder[word][1, 0, 0] == pytest.approx(np.mean(over)), "another temperature, by the baseline's range"
        last = bench.search("ours", 1, 2)["best"][-1]["reading"][figure]
        assert ours[word][1, 1, 11] == float(last < bound if word == "loop" else last > bound)
    plain = held_out_shares(readings["t1"])["loop"]
    assert made.answers[made.baseline].measures["loop"][1, 0, 0] == pytest.approx(plain.mean())
    assert plain.mean() > 0
    row = next(line for line in as_markdown(made).splitlines() if line.startswith("| plain samples (best of 1) |"))
    assert f"| {made.answers[made.baseline].mean('loop')[0]:.1%} |" in row


def test_gold_is_measured_in_its_spread_over_the_baselines_pool(quality):
    bench = quality(held_out={"the": Contains("the"), "size": FunctionReward(len)}, gold=("size",))
    bench.run(lambda: None)
    made = report(bench, "t1")
    assert made.gold == ("size",)
    sizes = [np.std(bench.scores("t1", i, bench.held_out["size"]), ddof=1) for i in range(3)]
    assert made.gold_spread["size"].tolist() == pytest.approx(sizes)
    last = bench.search("ours", 2, 1)["best"][-1]
    assert made.answers["ours"].measures["size"][2, 0, 11] == len(last["text"])
    text = as_markdown(made)
    assert "| size | ours | responses | 8 | 8 |" in text
    assert "| the | ours |" not in text, "held out, and not gold"


def test_what_was_vetoed_is_counted(quality):
    def unthirded(text):
        return Score(value=float(len(text)), vetoed=len(text) % 3 == 0)

    bench = quality(reward=FunctionReward(unthirded), held_out={})
    bench.run(lambda: None)
    made = report(bench, "t1")
    refused = sum(len(text) % 3 == 0 for text in bench.pool("t1", 0)["texts"])
    assert 0 < refused < 12
    assert made.left_out == 0
    assert made.answers[made.baseline].vetoed[0, 0] == refused
    assert made.answers["ours"].vetoed[1, 1] == bench.search("ours", 1, 2)["vetoed"] > 0
