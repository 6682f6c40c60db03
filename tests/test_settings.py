"""From settings to a search: defaults, presets, contradictions."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
from pydantic import ValidationError

from aisp.bench.rivals import MISVO, Blockwise, Pessimism, QAlign, SoftBestOfN
from aisp.errors import ConfigurationError
from aisp.invalid import explain_unknown
from aisp.records import GREEDY, Sampling
from aisp.search.blocks import next_block
from aisp.search.plan import Plan
from aisp.settings import SearchSettings, override, parse_strategy, read_settings
from aisp.strategies import AISP, BestOfN, SearchContext, TiltedRestart


def strategy_of(rewarded=True, **settings):
    return SearchSettings(**settings).make_strategy(rewarded=rewarded)


def plan_of(rewarded=True, **settings):
    return SearchSettings(**settings).make_plan(rewarded=rewarded)


def test_defaults():
    assert strategy_of() == TiltedRestart()
    assert plan_of() == Plan(budget=64, num_samples=16)
    assert [plan_of(budget=budget).num_samples for budget in (4, 16, 48, 256)] == [4, 16, 16, 16]
    assert plan_of(strategy="best_of_n") == Plan(budget=64, num_samples=16)
    assert strategy_of(rewarded=False) == BestOfN()
    assert plan_of(rewarded=False) == Plan(budget=1, num_samples=1)


def test_an_automatic_budget_is_the_default_one_with_a_price():
    auto = SearchSettings(budget="auto")
    assert (auto.make_plan(rewarded=True), auto.make_stops().response_price) == (plan_of(), 0.01)
    assert auto.make_plan(rewarded=False).budget == 1
    assert plan_of(budget="auto", num_samples=8, num_rounds=4) == Plan(budget=32, num_samples=8)
    assert SearchSettings(budget="auto", response_price=0).make_stops().response_price == 0, "an explicit 0 is a 0"
    assert SearchSettings(budget=128, response_price=0.02).make_stops().response_price == 0.02
    assert SearchSettings(budget=128).make_stops().response_price is None
    assert override(auto, {"budget": 8}).make_stops().response_price is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": "many"}, "budget is 'many': .* integer.*, or input should be 'auto'$"),
        ({"budget": 0}, "budget is 0: .* greater than or equal to 1, or input should be 'auto'$"),
        ({"response_price": -1}, "response_price is -1"),
        ({"stop": [1, 1]}, "stop.0 is 1: .*; stop.1 is 1: "),
    ],
)
def test_a_value_that_no_setting_takes_is_told_in_one_sentence(given, message):
    with pytest.raises(ConfigurationError, match=message):
        read_settings(given)


def test_the_papers_preset():
    paper = strategy_of(preset="paper")
    assert (paper.scale, paper.reward_temperature, paper.prior_shift) == (math.sqrt(0.5), 0.3, 0.999)
    assert (paper.mask_ended, paper.sampling) == (False, GREEDY)
    assert plan_of(preset="paper") == Plan(budget=1024, num_samples=32)
    assert plan_of(preset="paper", budget=64) == Plan(budget=64, num_samples=32)
    assert plan_of(preset="paper", budget=8) == Plan(budget=8, num_samples=8)
    assert plan_of(preset="paper", num_samples=16, num_rounds=16) == Plan(budget=256, num_samples=16)


def test_explicit_numbers_win_over_the_preset_and_zeros_are_zeros():
    mixed = strategy_of(preset="paper", strategy_options={"scale": 0.2, "reward_temperature": 0.0, "prior_shift": 0.0})
    assert (mixed.scale, mixed.reward_temperature, mixed.prior_shift) == (0.2, 0.0, 0.0)
    assert strategy_of(preset="paper", strategy_options={"scale": "auto"}).scale == "auto"


def test_budgets_have_no_bound():
    huge = 10**400  # no float holds it
    assert SearchSettings(budget=huge).make_plan(rewarded=True).budget == huge
    assert SearchSettings(num_samples=huge, budget=3).make_plan(rewarded=True).num_samples == 3
    with pytest.raises(ConfigurationError, match="makes 64 rounds"):
        SearchSettings(num_rounds=huge).make_plan(rewarded=True)
    assert next_block(Plan(budget=huge, num_samples=1), 0, 1, 4, None, None).budget == huge // 4


def test_how_tokens_are_drawn():
    assert strategy_of(strategy="best_of_n").sampling == Sampling(temperature=0.8)
    assert strategy_of(strategy="best_of_n", temperature=1.0, top_p=0.9).sampling == Sampling(top_p=0.9)
    assert strategy_of().plain == strategy_of(strategy="best_of_n").sampling
    given = strategy_of(temperature=0.7)
    assert given.sampling == given.plain == Sampling(temperature=0.7)
    nucleus = strategy_of(top_p=0.9)
    assert nucleus.sampling == nucleus.plain == Sampling(temperature=0.6, top_p=0.9)
    assert strategy_of(strategy="aisp", temperature=0.7) == AISP(sampling=Sampling(temperature=0.7))
    assert strategy_of(strategy="best_of_n", temperature=0.0).sampling == GREEDY


def test_greedy_draws_are_searched_by_the_strategy_that_is_made_for_them():
    assert strategy_of(temperature=0.0) == AISP()
    assert isinstance(strategy_of(temperature=0.0, budget=1), TiltedRestart)


def test_the_requests_sampling_is_put_over_an_objects_own():
    own = TiltedRestart(sampling=Sampling(temperature=0.5, top_p=0.9), plain=Sampling(temperature=0.5, top_p=0.9))
    assert strategy_of(strategy=own).sampling == own.sampling
    hotter = strategy_of(strategy=own, temperature=0.9)
    assert hotter.sampling == hotter.plain == Sampling(temperature=0.9, top_p=0.9)


def test_a_strategy_without_sampling_refuses_a_temperature():
    class Other:
        name, needs = "other", frozenset()
        init = propose = update = print

        def __repr__(self):
            return "Other()"

    assert strategy_of(strategy=Other()).name == "other"
    with pytest.raises(ConfigurationError, match="temperature, top_k can't be put over the draws of other"):
        strategy_of(strategy=Other(), temperature=0.7, top_k=3)


def test_truncation_without_draws_is_warned_of():
    with pytest.warns(UserWarning, match="no effect on greedy draws"):
        strategy_of(strategy="aisp", top_p=0.9)


@pytest.mark.parametrize("settings", [{"strategy_options": {"scale": 0.5}}, {"preset": "paper"}])
def test_what_plain_sampling_has_not_is_an_error(settings):
    with pytest.raises(ValidationError, match=r"best_of_n has no .* strategy='aisp'"):
        strategy_of(strategy="best_of_n", **settings)
    with pytest.raises(
        ConfigurationError, match=r"without rewards .* give rewards: best_of_n has no .* strategy='aisp'"
    ):
        strategy_of(rewarded=False, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"budgte": 3}, {"budget": 0}, {"top_p": 0}, {"temperature": -1}, {"strategy": "magic"}, {"patience": 0}],
)
def test_unknown_names_and_values_out_of_range_are_errors(settings):
    with pytest.raises(ValidationError):
        SearchSettings(**settings)


def test_limits_start_the_clock():
    limits = SearchSettings(max_tokens=7, stop=["x"], timeout=5).make_limits()
    assert (limits.max_tokens, limits.stop) == (7, ("x",))
    assert 4 < limits.deadline - time.monotonic() <= 5
    assert SearchSettings(stop=["x"]).make_limits(stop=["y"]).stop == ("y",)
    assert SearchSettings().make_limits().deadline is None


def test_rivals_take_their_own_options_and_the_draws():
    def rival(name, **options):
        return strategy_of(strategy=name, strategy_options=options)

    qalign = strategy_of(strategy="qalign", strategy_options={"reward_temperature": 0.5}, temperature=1.0)
    assert qalign == QAlign(reward_temperature=0.5, sampling=Sampling())
    assert rival("blockwise", beams=2, block_tokens=5) == Blockwise(beams=2, block_tokens=5)
    assert rival("misvo", step_size=0.2, fisher_penalty=0.0) == MISVO(step_size=0.2, fisher_penalty=0.0)
    assert rival("soft_best_of_n", reward_temperature=0.0) == SoftBestOfN(reward_temperature=0.0)
    assert rival("pessimism", target_ess_fraction=0.5) == Pessimism(target_ess_fraction=0.5)


@pytest.mark.parametrize(
    ("strategy", "foreign", "homes"),
    [
        ("best_of_n", {"reward_temperature": 1.0}, "aisp, pessimism, qalign, soft_best_of_n"),
        ("soft_best_of_n", {"beams": 2}, "blockwise"),
        ("pessimism", {"scale": 1.0}, "aisp"),
        ("qalign", {"step_size": 0.1}, "misvo"),
        ("blockwise", {"parents": 2}, "tilted_restart"),
        ("tilted_restart", {"fisher_penalty": 1.0}, "misvo"),
        (None, {"beams": 2}, "blockwise"),
    ],
)
def test_an_option_of_another_strategy_is_refused_and_its_home_named(strategy, foreign, homes):
    [(name, value)] = foreign.items()
    home = homes.split(",")[0]
    expected = f"{name} is an option of {homes}: strategy='{home}', strategy_options={{'{name}': {value}}}"
    with pytest.raises(ValueError, match=re.escape(expected)):  # at once where the strategy is named
        strategy_of(strategy=strategy, strategy_options=foreign)
    with pytest.raises(ValidationError, match=re.escape(expected)):
        SearchSettings(strategy=strategy, **foreign)


def test_an_option_that_no_strategy_has_is_refused_with_those_that_there_are():
    with pytest.raises(
        ConfigurationError, match="tilted_restart has no option parent; its options are sampling, plain"
    ):
        read_settings({"strategy": "tilted_restart", "strategy_options": {"parent": 3}})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("reward", "give rewards"),
        ("n", "give num_samples .* or budget"),
        ("num_generations", "give num_samples .* or budget"),
        ("num_return_sequences", "give num_samples .* or budget"),
        ("base_url", "there is no server behind it.*engine="),
        *(
            (name, "give max_tokens")
            for name in ("num_predict", "max_new_tokens", "max_completion_tokens", "max_length")
        ),
        ("sigma", "give scale, an option of aisp"),
        *((name, "give reward_temperature, an option of aisp") for name in ("lambda_", "lam", "lambda")),
        ("alpha", "give prior_shift"),
        ("tau", "give horizon"),
        ("kappa", "give num_rounds"),
        ("do_sample", "give temperature"),
        ("num_beams", "strategy='blockwise'"),
        ("budgte", "did you mean budget"),
        ("max_token", "did you mean max_tokens"),
        ("zzz", "expected any of budget, commit_tokens"),
    ],
)
def test_an_unknown_setting_is_told_which_name_is_meant(name, meant):
    with pytest.raises(ConfigurationError, match=f"there is no setting '{name}'.*{meant}"):
        read_settings({name: 3})


def test_every_unknown_name_is_explained_among_the_names_of_the_asker():
    said = explain_unknown(["strct", "n"], ["strict", "tools"])
    assert said.startswith(
        "there is no setting 'strct'; did you mean strict?; there is no setting 'n'; give num_samples"
    )


def test_what_is_out_of_range_is_said_without_pydantics_links():
    with pytest.raises(ConfigurationError) as refused:
        read_settings({"max_tokens": 0, "strategy": "magic"})
    assert str(refused.value) == "max_tokens is 0: Input should be greater than or equal to 1"


def test_settings_with_a_strategy_object_are_json_that_tells_options_apart_and_can_be_read_again():
    def dumped(strategy):
        return json.dumps(SearchSettings(strategy=strategy).model_dump(), sort_keys=True)

    assert dumped(TiltedRestart(parents=3)) == dumped(TiltedRestart(parents=3))
    differing = [
        TiltedRestart(),
        TiltedRestart(parents=3),
        TiltedRestart(plain=Sampling()),
        BestOfN(),
        "best_of_n",
        None,
    ]
    assert len({dumped(strategy) for strategy in differing}) == len(differing)
    for strategy in differing:
        again = SearchSettings(**json.loads(dumped(strategy)))
        assert again.strategy == strategy
        assert again.strategy_options is None


def test_an_object_that_can_not_be_told_from_another_is_refused():
    class Nameless:
        name, needs = "nameless", frozenset()
        init = propose = update = print

    with pytest.raises(ConfigurationError, match="make it a frozen dataclass"):
        read_settings({"strategy": Nameless()})


def test_a_call_that_names_another_strategy_leaves_the_first_ones_options_behind():
    own = SearchSettings(strategy="tilted_restart", strategy_options={"parents": 3}, budget=8)
    assert override(own, {"budget": 9}).strategy_options == {"parents": 3}
    assert override(own, {"strategy": "tilted_restart"}).strategy_options == {"parents": 3}
    other = override(own, {"strategy": BestOfN()})
    assert (other.strategy, other.strategy_options, other.budget) == (BestOfN(), None, 8)
    assert override(own, {"strategy_options": {"tilt_nats": 0}}).strategy_options == {"tilt_nats": 0}


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ("aisp", {"strategy": "aisp"}),
        ("aisp:preset=paper", {"strategy": "aisp", "preset": "paper"}),
        ('aisp:preset="paper",scale=0.3', {"strategy": "aisp", "preset": "paper", "strategy_options": {"scale": 0.3}}),
        ("tilted_restart:num_samples=4, parents=3", {"num_samples": 4, "strategy_options": {"parents": 3}}),
        ('best_of_n:stop=["a,b","c"]', {"stop": ["a,b", "c"]}),
        ("a.b:Mine", {"strategy": "a.b:Mine"}),
        ("a.b:Mine.Inner:depth=2", {"strategy": "a.b:Mine.Inner", "strategy_options": {"depth": 2}}),
    ],
)
def test_a_strategy_in_words(spec, settings):
    assert parse_strategy(spec) == {"strategy": spec.split(":")[0], **settings}


@pytest.mark.parametrize(
    "spec", ["aisp:3", "aisp:scale=", "aisp:scale=1 2", "aisp:strategy=best_of_n", "aisp:a=1,,b=2"]
)
def test_words_that_are_no_strategy(spec):
    with pytest.raises(ConfigurationError, match="expected"):
        parse_strategy(spec)


def test_the_kl_budget_halves_into_the_tilt_and_a_block_has_its_share():
    def tilt(own, **context):
        strategy = TiltedRestart(tilt_nats=own)
        return strategy.init(SearchContext(root_seed=1, budget=8, num_samples=4, max_tokens=8, **context)).tilt_nats

    assert tilt(10.0, kl_budget=4.0) == 2.0
    assert tilt(1.0, kl_budget=4.0) == 1.0
    assert tilt(16.0, kl_budget=0.0) == 0.0
    assert tilt(10.0) == 10.0
    assert tilt(10.0, block_share=0.25) == 2.5
    assert tilt(10.0, block_share=0.25, kl_budget=4.0) == 0.5


@pytest.mark.parametrize("name", ["temperature", "budget", "num_samples", "timeout", "seed", "kl_budget"])
@pytest.mark.parametrize("value", [True, False])
def test_true_is_no_number(name, value):
    """`temperature=True` drew at 1, and `seed=False` was the seed 0."""
    with pytest.raises(ConfigurationError, match=f"{name} is {value}; expected a number"):
        read_settings({name: value})
