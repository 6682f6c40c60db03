"""Every engine of the project keeps the contract, and the contract sees engines that don't."""

from __future__ import annotations

import pytest

from aisp.engines import Finished
from aisp.records import Sampling
from aisp.testing import EngineContract, FakeClock, FakeEngine, Toy, ToyEngine, tiny_model
from tests.engines.build import engine_of
from tests.engines.graphs import TapeGraphs

_ENGINES = {}


class TestTransformersEngine(EngineContract):
    samplings = (Sampling(), Sampling(temperature=0.7, top_p=0.9))

    @property
    def engine(self):
        if "plain" not in _ENGINES:
            _ENGINES["plain"] = engine_of(tiny_model("llama"))
        return _ENGINES["plain"]


class TestCaptured(TestTransformersEngine):
    @property
    def engine(self):
        if "captured" not in _ENGINES:
            _ENGINES["captured"] = engine_of(tiny_model("qwen2"), graphs=TapeGraphs())
        return _ENGINES["captured"]


class TestToyEngine(EngineContract):
    max_tokens = 4
    samplings = (Sampling(), Sampling(temperature=0.7))
    engine = ToyEngine(Toy(depth=6))


class TestFakeEngine(EngineContract):
    engine = FakeEngine(["one two three", "four five", "six", "seven eight nine ten"])


class TestFakeEngineOnAClock(EngineContract):
    engine = FakeEngine(["one two three", "four five", "six"], seconds=2.0, clock=FakeClock())


class Broken(ToyEngine):
    """Keeps the contract but for what a subclass changes."""


class Forgetful(Broken):
    def rollout(self, *args):
        return super().rollout(*args)[:-1]


class Late(Broken):
    def start(self, *args):
        flight = super().start(*args)
        plain = flight.wait

        def wait(progress=None):
            found = []
            while finished := plain(progress):
                found += finished
            return sorted(found)

        flight.wait = wait
        return flight


class Misnumbering(Broken):
    def start(self, *args):
        flight = super().start(*args)
        plain = flight.wait
        flight.wait = lambda *given: [Finished(place + 1, rollout) for place, rollout in plain(*given)]
        return flight


class Boastful(Broken):
    @property
    def offers(self):
        return super().offers | {"unused_mean_dot"}


class Humble(Broken):
    """Does more than it offers."""

    @property
    def offers(self):
        return frozenset()

    def start(self, prefix, proposals, limits):
        return ToyEngine(self.toy).start(prefix, proposals, limits)


class Immortal(Broken):
    def start(self, *args):
        flight = super().start(*args)
        flight.close = lambda: None
        return flight


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Forgetful, "test_there_is_one_response_a_proposal_in_their_order"),
        (Late, "test_what_has_finished_is_handed_out_while_the_rest_is_written"),
        (Misnumbering, "test_a_flight_takes_in_more"),
        (Boastful, "test_what_is_measured_is_what_was_asked_for"),
        (Humble, "test_kept_tokens_lead_the_response"),
        (Humble, "test_an_excluded_token_is_not_the_first_drawn"),
        (Humble, "test_a_shift_steers_and_tells_by_how_many_nats"),
        (Immortal, "test_closing_a_flight_ends_it_and_leaves_the_engine_usable"),
    ],
)
def test_the_contract_sees_what_is_broken(broken, test):
    contract = TestToyEngine()
    contract.engine, contract.dim = broken(Toy(depth=6)), 3
    with pytest.raises(AssertionError):
        getattr(contract, test)()
