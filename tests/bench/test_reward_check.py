"""What a check says of rewards that are wrong in one way each, and of one that is right."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

import aisp.models
from aisp.bench.reward import Thresholds, check_reward, draw_check, draw_samples
from aisp.bench.reward.measures import rank_correlation, spread, ties
from aisp.cli.app import app
from aisp.errors import ConfigurationError
from aisp.records import Candidate, Sampling
from aisp.rewards import Avoids, FunctionReward, Length, Reward, normalize, veto
from aisp.rewards.function import BatchReward

PROMPTS, SAMPLES = 6, 12


def responses_of(prompts=PROMPTS, samples=SAMPLES):
    """Texts of a random number, another, and a random number of words."""
    rng = np.random.default_rng(5)
    return [
        [
            Candidate(
                messages=[{"role": "user", "content": f"prompt {prompt}"}],
                text=f"{rng.random():.4f} {rng.random():.4f}" + " word" * int(rng.integers(1, 20)),
            )
            for _ in range(samples)
        ]
        for prompt in range(prompts)
    ]


RESPONSES = responses_of()


def first(text):
    return float(text.split()[0])


def second(text):
    return float(text.split()[1])


def reward_of(function, name="r", **options):
    return FunctionReward(function, name=name, **options)


def kinds(reward, **options):
    return [complaint.kind for complaint in check_reward(reward, RESPONSES, **options).complaints]


def said(reward, kind, **options):
    [text] = [c.text for c in check_reward(reward, RESPONSES, **options).complaints if c.kind == kind]
    return text


@pytest.mark.parametrize(
    "reward",
    [
        reward_of(first),
        reward_of(first, "a") + reward_of(second, "b") + veto(Avoids("sorry")),
        reward_of(first, "a") - reward_of(lambda text: -second(text), "b"),
        normalize(reward_of(first)) + reward_of(second, "b"),
    ],
    ids=["one", "sum", "difference", "normalized"],
)
def test_nothing_is_said_of_a_healthy_reward(reward):
    check = check_reward(reward, RESPONSES, bounds=(-9, 9))
    assert check.complaints == ()
    assert check.usable == check.distinct == check.responses == PROMPTS * SAMPLES
    assert (check.again.changed, check.alone.changed) == (0.0, 0.0)
    assert check.alone.responses == 2 * PROMPTS


def test_a_constant():
    assert said(reward_of(lambda text: 0.5), "constant") == "every response gets exactly 0.5: nothing to optimise"


def test_a_saturated_one():
    text = said(reward_of(lambda text: min(first(text) * 12, 1.0)), "saturated")
    assert text == "90 % of responses get exactly 1: nothing to optimise"
    assert said(reward_of(lambda text: min(first(text) * 2, 1.0)), "saturated").endswith("little to optimise")


def test_a_sparse_one():
    assert "the lowest value: nothing to climb by" in said(reward_of(lambda text: float(first(text) > 0.9)), "sparse")


def test_a_coarse_one():
    text = said(reward_of(lambda text: (first(text) > 0.1) + (first(text) > 0.9)), "ties")
    assert "(3 values in all): too coarse to rank by" in text


def test_one_that_tells_prompts_apart():
    prompts = reward_of(lambda prompt, text: float(prompt[-1]) + 0.01 * first(text))
    assert "prompts apart rather than answers" in said(prompts, "prompts")


@pytest.mark.parametrize(("sign", "which"), [(1, "longer"), (-1, "shorter")])
def test_one_that_is_driven_by_length(sign, which):
    text = said(reward_of(lambda text: sign * len(text.split()) + first(text)), "length")
    assert text.startswith(f"{which} responses score higher (rank correlation {'+' if sign > 0 else '-'}0.9")


def test_one_that_rolls_dice():
    rng = np.random.default_rng(1)
    check = check_reward(reward_of(lambda text: rng.random()), RESPONSES)
    assert [complaint.kind for complaint in check.complaints] == ["order", "batch"]
    assert "scored again in another order, 100 % of responses get another value" in check.complaints[0].text
    assert "standard deviations): verdicts aren't reproducible" in check.complaints[0].text


def test_one_whose_verdicts_depend_on_the_batch():
    best = BatchReward(lambda batch: [first(c.text) / max(first(c.text) for c in batch) for c in batch], name="best")
    assert kinds(best) == ["batch"]
    place = BatchReward(lambda batch: [first(c.text) + i for i, c in enumerate(batch)], name="place")
    assert kinds(place) == ["order", "batch"]


def test_parts_that_contradict_each_other():
    a, b = reward_of(first, "a"), reward_of(lambda text: 1.3 - first(text) ** 2, "b")
    assert "the parts 'a' and 'b' contradict each other (rank correlation -1.00)" in said(a + b, "contradiction")
    assert "'a' and 'b' say the same" in said(a - b, "redundant"), "a negative weight turns a part"


def test_parts_that_do_nothing():
    a, b = reward_of(first, "a"), reward_of(second, "b")
    assert "the part 'b' hardly matters: the whole ranks as 'a' does" in said(a + 0.01 * b, "idle")
    assert "'c' gives all responses to a prompt the same value" in said(a + reward_of(lambda text: 1, "c"), "idle")


def test_what_fails_is_counted_and_the_rest_is_measured():
    def picky(text):
        return math.nan if first(text) > 0.8 else first(text)

    for on_error in ("raise", "exclude"):
        check = check_reward(reward_of(picky, on_error=on_error), RESPONSES)
        assert check.failed == sum(first(c.text) > 0.8 for group in RESPONSES for c in group)
        assert check.usable == check.responses - check.failed
        assert check.spread.high <= 0.8
        assert [complaint.kind for complaint in check.complaints] == ["failed"]
        assert "reward 'r' returned nan" in check.complaints[0].text
    assert kinds(reward_of(lambda text: None)) == ["failed"]


def test_what_is_vetoed_or_out_of_range_is_counted():
    check = check_reward(reward_of(first) + veto(reward_of(lambda text: second(text) > 0.9)), RESPONSES)
    assert check.vetoed == sum(second(c.text) <= 0.9 for group in RESPONSES for c in group)
    assert "of responses are vetoed" in check.complaints[0].text
    wide = reward_of(lambda text: 2 * first(text))
    assert "outside the range 0 to 1 that it is said to keep" in said(wide, "out_of_range", bounds=(0, 1))


def test_repeated_samples_and_dear_rewards_are_told():
    twice = [[group[0]] * 8 + [group[1]] for group in RESPONSES]
    found = check_reward(reward_of(first), twice, thresholds=Thresholds(seconds=0.0)).complaints
    assert [complaint.kind for complaint in found] == ["samples", "cost"]
    assert "only 22 % of the model's own samples differ" in found[0].text


def test_each_prompt_is_scored_in_a_session_of_its_own():
    seen = []
    counting = BatchReward(lambda batch: [seen.append(c.text) or first(c.text) for c in batch], name="counting")
    check_reward(counting, [[group[0], group[0], group[1]] for group in RESPONSES])
    # to warm up; each different one in the first scoring, in the second, and alone
    assert len(seen) == 1 + PROMPTS * (2 + 2 + 2)


def test_one_response_a_prompt_is_no_check():
    with pytest.raises(ConfigurationError, match="two or more"):
        check_reward(Length(1, 2), [group[:1] for group in RESPONSES])


class TestMeasures:
    def test_rank_correlations_are_within_prompts(self):
        x = [np.array([1.0, 2, 3]), np.array([11.0, 12, 13])]
        falling = [np.array([3.0, 2, 1]), np.array([13.0, 12, 11])]
        assert rank_correlation(x, falling).value == pytest.approx(-1.0)
        assert np.corrcoef(np.concatenate(x), np.concatenate(falling))[0, 1] > 0.9
        assert rank_correlation(x, [np.zeros(3), np.zeros(3)]).value is None
        assert rank_correlation(x[:1], [np.array([1.0, 9, 4])]).value == pytest.approx(0.5)

    def test_what_is_missing_is_left_out(self):
        one, other = [np.array([1.0, np.nan, 2, 3, 5])], [np.array([1.0, 2, 4, np.nan, 6])]
        assert rank_correlation(one, other).value == pytest.approx(1.0)

    def test_spread_and_ties(self):
        groups = [np.array([0.0, 1.0]), np.array([4.0, 4.0, 4.0])]
        found = spread(groups)
        assert found.within_prompts == pytest.approx((0.5 / 3) ** 0.5)
        assert found.between_prompts == pytest.approx(3.5 / 2**0.5)
        assert found.best_gain == pytest.approx(0.25)
        counted = ties(groups, [groups[0], groups[1][:2]])
        assert (counted.at_high, counted.at_low, counted.values) == (pytest.approx(0.6), pytest.approx(0.2), 3)
        assert counted.tied_pairs == pytest.approx(0.5)


def test_samples_are_the_models_own_and_the_same_for_a_seed(tiny):
    prompts = [[{"role": "user", "content": text}] for text in ("Hi", "Yes or no?", "Why?")]
    one = draw_samples(tiny, prompts, samples=3, max_tokens=6, seed=1)
    assert one == draw_samples(tiny, prompts, samples=3, max_tokens=6, seed=1, concurrency=1)
    assert [len(group) for group in one] == [3, 3, 3]
    assert one != draw_samples(tiny, prompts, samples=3, max_tokens=6, seed=2)
    greedy = draw_samples(tiny, prompts, samples=2, max_tokens=6, sampling=Sampling(temperature=0))
    assert all(a == b for a, b in greedy)


def test_the_command_line_writes_figures_and_a_picture(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(aisp.models, "load", lambda name, dtype=None: tiny)
    prompts, out, plot = tmp_path / "p.txt", tmp_path / "check.json", tmp_path / "check.png"
    prompts.write_text("Hi\nWhy?\n")
    ask = ["--prompts", prompts, "--samples", 4, "--max-tokens", 6, "--out", out, "--plot", plot, "--bounds", 0, 0.5]
    for rewards in (["length:0..90"], ["length:0..90", "contains:the"]):
        asked = [word for reward in rewards for word in ("--reward", reward)]
        run = CliRunner().invoke(app, ["reward", "check", *map(str, ask), *asked], env={"COLUMNS": "120"})
        assert run.exit_code == 0, run.output
        assert plot.read_bytes().startswith(b"\x89PNG")
        found = json.loads(out.read_text())
        assert found["responses"] == len(found["rows"]) == 8
        assert found["bounds"] == [0, 0.5]
        assert "outside the range 0.0 to 0.5" in run.output
    assert found["agreement"][0]["parts"] == ["length", "contains"]
    wrong = CliRunner().invoke(app, ["reward", "check", *map(str, ask), "--reward", "mood"])
    assert wrong.exit_code == 2
    assert "names no reward" in wrong.output


def test_it_can_be_drawn_when_nothing_could_be_scored(tmp_path):
    check = check_reward(reward_of(lambda text: None), RESPONSES)
    draw_check(check, tmp_path / "none.png")
    assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["spread"] is None


def test_rewards_are_what_they_were():
    reward: Reward = normalize(reward_of(first))
    before = reward.fingerprint
    check_reward(reward, RESPONSES)
    assert reward.fingerprint == before
    assert reward._moments is None
