"""Win rates by a judge of pairs, and pairs to read: verdicts made by hand, on pools and searches of the tiny model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from aisp.bench.quality.chosen import affordable, from_pool, from_search
from aisp.bench.quality.pairs import shown_pairs
from aisp.bench.quality.pairwise import PairwiseJudge, Tournament, leaning, outcome
from aisp.bench.quality.report import report
from aisp.bench.quality.tables import as_markdown
from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards import Contains, FunctionReward, LocalJudge

REQUEST = [{"role": "user", "content": "Tell me about rain."}]


class Judging:
    """An engine that likes the longer answer, and adds to the odds of "A"."""

    offers = frozenset({"next_token_log_probs"})

    def __init__(self, codec, bias=0.0):
        self.codec, self.bias, self.seen = codec, bias, []

    def log_probs(self, token_ids, next_tokens):
        text = self.codec.tokenizer.decode(token_ids)
        self.seen.append(text)
        _, first, second = (found[1] for found in re.findall(r"\[(\w+) begins\]\n(.*?)\n\[\1 ends\]", text, re.DOTALL))
        odds = np.array([self.bias + 0.05 * (len(first) - len(second)), 0.0])
        assert [self.codec.tokenizer.decode([token]) for token in next_tokens] == ["A", "B"]
        return odds - np.logaddexp(*odds)


def judge_of(tiny, **options):
    engine = Judging(tiny, **options)
    return PairwiseJudge(LocalJudge("Is it well written?", engine=engine), "longer"), engine


def test_both_answers_are_data_in_the_order_that_is_asked_for(tiny):
    judge, engine = judge_of(tiny)
    longer = judge.first_is_better(REQUEST, "Rain falls in long and quiet lines.", "<|im_end|> Wet.")
    assert longer > 0.5 > judge.first_is_better(REQUEST, "Wet.", "Rain falls in long and quiet lines.")
    content = judge.messages_for(REQUEST, "Rain falls.", "<|im_end|> Wet.")[0]["content"]
    assert content.index("Tell me about rain.") < content.index("Rain falls.") < content.index("Wet.")
    assert "Is it well written?" in content
    assert "<|im_end|>" not in content, "control tokens of an answer are taken out"
    assert len(engine.seen) == 2


@pytest.mark.parametrize(
    ("as_first", "as_second", "expected", "leans"),
    [
        (0.9, 0.8, 1.0, 1.0),
        (0.1, 0.2, 0.0, 0.0),
        (0.9, 0.3, 0.5, 1.0),  # the orders disagree
        (0.8, 0.1, 0.5, 0.0),
        (0.54, 0.54, 0.5, 1.0),  # a small margin
        (0.5, 0.5, 0.5, 0.5),
        (0.56, 0.56, 1.0, 1.0),
    ],
)
def test_a_win_is_one_in_both_orders_and_by_a_margin(as_first, as_second, expected, leans):
    assert outcome(as_first, as_second) == expected
    assert leaning(as_first, as_second) == leans
    assert np.isnan(outcome(np.nan, np.nan))
    assert np.isnan(leaning(np.nan, np.nan))


@pytest.fixture
def played(quality, tiny):
    """Pairs of answers that are as long as can be, and a judge that likes longer ones."""

    def build(bias=0.0, **changes):
        bench = quality(**{"reward": FunctionReward(lambda text: float(len(text))), **changes})
        bench.run(lambda: None)
        judge, engine = judge_of(tiny, bias=bias)
        return Tournament(bench, "t1", judge), engine

    return build


def test_the_win_rate_is_counted_over_pairs_with_ties_as_half(played):
    tournament, _ = played()
    done = []
    tournament.run(lambda: done.append(1))
    bench = tournament.quality
    [equal, timed] = tournament.win_rates()
    assert (equal.strategy, equal.at, equal.responses) == ("ours", "12 responses", 12)
    told = []
    for prompt in range(3):
        for seed in bench.seeds:
            ours, theirs = from_search(bench, "ours", prompt, seed, 12), from_pool(bench, "t1", prompt, seed, 12)
            gap = 0.05 * (len(ours.text) - len(theirs.text))
            told.append(0.5 if abs(1 / (1 + np.exp(-gap)) - 0.5) < 0.05 else float(gap > 0))
    assert equal.rate.mean == pytest.approx(np.mean(told))
    assert equal.ties == pytest.approx(np.mean(np.array(told) == 0.5))
    assert len(set(told)) > 1, "pairs that can be told apart"
    assert equal.rate.prompts == 3
    assert timed.at == "equal seconds"
    assert done, "each pair was told of as it was judged"
    text = as_markdown(report(bench, "t1"), tournament.win_rates())
    assert f"| longer | ours | 12 responses | 12 | {equal.rate.mean:.2f} |" in text


def test_no_pair_is_judged_twice_also_not_the_other_way_round(played, tmp_path):
    tournament, engine = played()
    tournament.run(lambda: None)
    asked = len(engine.seen)
    pairs = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    pairs = [row for row in pairs if row["kind"] == "pair"]
    assert asked == 2 * len(pairs)
    assert len({(row["prompt"], *row["texts"]) for row in pairs}) == len(pairs)
    assert all(row["texts"] == sorted(row["texts"]) for row in pairs)
    tournament.run(lambda: None)
    assert tournament.missing() == {}
    assert len(engine.seen) == asked


def test_a_judge_that_always_takes_the_first_answer_ties_and_still_leans(played, tiny):
    fair, _ = played()
    judge, engine = judge_of(tiny, bias=9.0)  # another engine is another judge, with rows of its own
    rates = []
    for tournament in (fair, Tournament(fair.quality, "t1", judge)):
        tournament.run(lambda: None)
        rates.append(tournament.win_rates()[0])
    assert engine.seen
    assert rates[1].ties == 1.0
    assert rates[1].rate.mean == 0.5
    assert rates[1].leaning.mean == pytest.approx(rates[0].leaning.mean)
    assert rates[0].leaning.mean != 0.5


def test_at_equal_seconds_best_of_n_has_what_its_pool_makes_in_the_searchs_time(played):
    tournament, _ = played()
    bench = tournament.quality
    pool = bench.pool("t1", 0)
    pool["seconds"] = 6.0 - bench.scoring_seconds("t1", 0, bench.reward)  # half a second a sample
    rounds = bench.search("ours", 0, 1)["rounds"]
    for round_, seconds in zip(rounds, (1.0, 1.0, 0.75), strict=True):
        round_["seconds"] = seconds
    assert affordable(bench, "t1", "ours", 0, 1) == pytest.approx(5.5)
    rounds[0]["seconds"] = 0.0
    rounds[1]["seconds"] = 0.0
    rounds[2]["seconds"] = 0.1
    assert affordable(bench, "t1", "ours", 0, 1) == 1.0, "one at least"
    rounds[0]["seconds"] = 60.0
    _, _, n, short = tournament._pair("ours", None, 0, 1)
    assert (n, short) == (12, True), "the pool has no more"


def test_a_side_without_an_answer_is_no_pair(played):
    def picky(text, prompt):
        if prompt == "two":
            raise ValueError("not this one")
        return float(len(text))

    tournament, _ = played(reward=FunctionReward(picky, on_error="exclude"))
    tournament.run(lambda: None)
    assert [win.rate.prompts for win in tournament.win_rates()] == [2, 2]
    assert "no answer, all were vetoed" in shown_pairs(tournament.quality, "t1", 2)


def test_what_best_of_n_returns_is_the_best_of_the_seeds_own_order(quality):
    bench = quality()
    bench.run(lambda: None)
    rewards, texts = bench.scores("t1", 1, bench.reward), bench.pool("t1", 1)["texts"]
    whole = from_pool(bench, "t1", 1, 1, 12)
    assert whole.reward == max(rewards)
    singles = {seed: from_pool(bench, "t1", 1, seed, 1).text for seed in range(8)}
    assert len(set(singles.values())) > 1, "seeds have orders of their own"
    [the] = Contains("the").score([Candidate(messages=[], text=whole.text)])
    assert whole.held_out == {"the": the.value}
    assert texts[rewards.index(whole.reward)] == whole.text or rewards.count(whole.reward) > 1
    found = {prompt: bench.search("ours", prompt, 1)["best"] for prompt in range(3)}
    prompt = max(found, key=lambda prompt: len(found[prompt]))
    *_, before, last = found[prompt]
    assert from_search(bench, "ours", prompt, 1, last["drawn"]).text == last["text"] != before["text"]
    assert from_search(bench, "ours", prompt, 1, last["drawn"] - 1).text == before["text"]


def test_pairs_are_shown_as_they_come_and_as_text(quality):
    bench = quality()
    bench.run(lambda: None)
    text = shown_pairs(bench, "t1", 4)
    assert text.startswith("**4 pairs of answers** after 12 responses")
    assert text.index("Prompt 1, seed 1") < text.index("Prompt 3, seed 1") < text.index("Prompt 1, seed 2")
    row = bench.search("ours", 0, 1)["best"][-1]
    row["text"] = "before\n```\n# a heading\n````"
    text = shown_pairs(bench, "t1", 1)
    assert f"`````text\n{row['text']}\n`````" in text, "a fence longer than any in the answer"
    assert f"reward {row['reward']:.3f}, the " in text
    assert shown_pairs(bench, "t1", 0) == ""


def test_only_a_local_judge_judges_pairs():
    with pytest.raises(ConfigurationError, match="expected judge:MODEL:QUESTION"):
        PairwiseJudge.of("sentiment")
    assert PairwiseJudge.of("judge:some-model:Is it kind?").name == "judge:some-model:Is it kind?"
