"""Gold beside proxy in the report: at equal reward, responses and seconds, and along sqrt(KL). Figures made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aisp.bench.quality.answers import MEASURES, Answers
from aisp.bench.quality.curves import Curve, curve
from aisp.bench.quality.picture import draw
from aisp.bench.quality.report import Report
from aisp.bench.quality.tables import as_markdown


def answers(reward, gold, kl=0.0, seconds=1.0):
    """Two prompts, one seed; the second prompt's gold is ten times as much."""
    reward, gold = (np.array([[values], [values]], dtype=float) for values in (reward, gold))
    gold[1] *= 10.0
    measures = {name: np.zeros_like(reward) for name in MEASURES}
    measures |= {"reward": reward, "gold": gold, "kl_to_base": np.full_like(reward, kl)}
    spent = np.broadcast_to(np.arange(1.0, reward.shape[-1] + 1), reward.shape)
    return Answers(measures=measures, forward_tokens=spent, seconds=seconds * spent)


def made_of(plain, ours, spread=(2.0, 2.0), gold_spread=(0.5, 5.0)):
    return Report(
        baseline="plain",
        answers={"plain": plain, "ours": ours},
        spread=np.array(spread),
        held_out=("gold",),
        gold_spread={"gold": np.array(gold_spread)},
    )


RISING = [0.1 * n for n in range(1, 17)]
FASTER = [0.2 * n for n in range(1, 17)]


def test_gold_is_in_its_own_standard_deviations_of_each_prompt():
    made = made_of(answers(RISING, RISING), answers(FASTER, [1.0] * 16))
    d = made.difference("ours", 8, "gold")
    assert d.mean == pytest.approx((1.0 - 0.8) / 0.5), "both prompts alike, though the second is ten times as much"
    assert (d.low, d.high, d.prompts) == (pytest.approx(d.mean), pytest.approx(d.mean), 2)
    with pytest.raises(ValueError, match="surprisal has no unit"):
        made.difference("ours", 8, "surprisal")


def test_gold_at_equal_reward_is_after_the_responses_that_have_that_reward():
    made = made_of(answers(RISING, RISING), answers(FASTER, RISING))
    n, d = made.at_equal_reward("ours", 16, "gold", standardised=True)
    assert n == 8
    assert d.mean == pytest.approx((0.8 - 1.6) / 0.5)
    text = as_markdown(made)
    assert "| gold | ours | reward | 16 | 8 | -1.60 | -1.60 to -1.60 | -1.60 | 2 |" in text
    assert "| gold | ours | responses | 16 | 16 | +0.00 |" in text
    never = made_of(answers(FASTER, RISING), answers(RISING, RISING))
    assert never.at_equal_reward("ours", 16, "gold") is None


def test_a_prompt_whose_gold_is_all_alike_has_no_unit_and_is_told():
    made = made_of(answers(RISING, RISING), answers(FASTER, FASTER), gold_spread=(0.5, np.nan))
    assert made.difference("ours", 8, "gold").prompts == 1
    assert "| gold | ours | responses | 8 | 8 | +1.60 | +1.60 to +1.60 | +1.60 | 1 |" in as_markdown(made)


def test_without_gold_nothing_is_said_of_it():
    plain = answers(RISING, RISING)
    text = as_markdown(Report(baseline="plain", answers={"plain": plain, "ours": plain}, spread=np.ones(2)))
    assert "gold" not in text.lower()
    assert "Over-optimisation" not in text


def test_the_distance_of_best_of_n_is_its_kl_and_a_searchs_adds_what_steering_spent():
    made = made_of(answers(RISING, RISING), answers(RISING, RISING, kl=3.0))
    plain, ours = (curve(made, name, "gold") for name in ("plain", "ours"))
    assert plain.budgets == (1, 2, 4, 8, 16)
    kl = [np.log(n) - (n - 1) / n for n in plain.budgets]
    assert plain.distance == pytest.approx(np.sqrt(kl))
    assert ours.distance == pytest.approx(np.sqrt(3.0 + np.array(kl)))
    assert plain.proxy == pytest.approx([0.0, 0.05, 0.15, 0.35, 0.75]), "gains over one, in the reward's sd"
    assert plain.gold == pytest.approx([0.0, 0.2, 0.6, 1.4, 3.0]), "in gold's"


def drawn(alpha, beta, gold_alpha, gold_beta):
    d = np.linspace(0.0, 2.0, 6)
    return Curve(
        budgets=(1, 2, 4, 8, 16, 32), distance=d, proxy=d * (alpha - beta * d), gold=d * (gold_alpha - gold_beta * d)
    )


def test_the_degree_is_the_area_between_gold_and_proxy_by_that_under_gold():
    assert drawn(1.0, 0.0, 1.0, 0.0).degree == pytest.approx(0.0), "gold follows"
    # Proxy x, gold x/2: 2 - 1 by 1.
    assert drawn(1.0, 0.0, 0.5, 0.0).degree == pytest.approx(1.0, abs=1e-4)
    # Proxy x, gold x (1 - x/3): 8/9 by 2 - 8/9.
    assert drawn(1.0, 0.0, 1.0, 1 / 3).degree == pytest.approx((8 / 9) / (2 - 8 / 9), abs=1e-4)
    assert np.isnan(drawn(1.0, 0.0, -1.0, 0.0).degree), "gold that gains nothing has no area"


def test_the_drop_is_from_golds_peak_to_its_end():
    found = drawn(1.0, 0.0, 1.0, 0.5)  # peak at d = 1
    assert found.peak in (4, 8)
    assert found.drop == pytest.approx(found.gold.max())
    assert drawn(1.0, 0.0, 1.0, 0.0).drop == 0.0


def test_the_report_tells_the_curves_and_draws_them(tmp_path):
    falling = [0.5 + 0.1 * min(n, 8) - 0.1 * max(n - 8, 0) for n in range(1, 17)]
    made = made_of(answers(RISING, RISING), answers(FASTER, falling, kl=1.0))
    row = next(line for line in as_markdown(made).splitlines() if line.startswith("| ours | 1.48"))
    assert row.endswith("| 8 | 1.60 |"), "gold's peak is at 8 responses, and 0.8 / 0.5 lost since"
    draw(made, tmp_path / "three.png")
    lone = made_of(answers([1.0], [1.0]), answers([1.0], [1.0]))
    draw(lone, tmp_path / "one.png")
    assert "none" in as_markdown(lone)


def test_rewards_at_equal_seconds_are_of_what_was_there_by_then():
    # Best of 16 takes 16 s; ours take 8 s each, so there are two by then, and twice as many at twice the time.
    made = made_of(answers([0.1 * n for n in range(1, 49)], [0.0] * 48), answers(FASTER, [0.0] * 16, seconds=8.0))
    found = made.at_equal_seconds("ours", 1)
    assert (found.responses, found.all_drawn) == ((2.0, 16.0), False)
    assert found.rewards == (pytest.approx(0.4), pytest.approx(1.6))
    assert found.difference.mean == pytest.approx((0.4 - 1.6) / 2.0)
    third = made.at_equal_seconds("ours", 3)
    assert (third.responses, third.all_drawn) == ((6.0, 48.0), True), "3 x 16 s is 48 samples, and all there are"
    assert "| ours | 2 | 4 | 32 | 0.800 | 3.200 | -1.20 |" in as_markdown(made)
    assert "| ours | 6 | 12 | 48, all | 2.400 | 4.800 |" in as_markdown(made)


def test_who_has_no_answer_by_then_is_left_out():
    made = made_of(answers(RISING, RISING), answers(FASTER, FASTER, seconds=17.0))
    found = made.at_equal_seconds("ours", 1)
    assert found.difference.prompts == 0
    assert np.isnan(found.rewards[0])
    assert "| ours | 1 |  |  |  |  |  |  |  | 0 |" in as_markdown(made)
    short = made_of(answers([1.0] * 15, [1.0] * 15), answers([1.0] * 15, [1.0] * 15))
    assert "equal seconds" not in as_markdown(short), "without 16 samples there is no unit"
