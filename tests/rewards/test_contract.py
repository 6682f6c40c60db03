"""Every built-in reward keeps the contract that is shipped for users' own, and the contract finds what breaks it."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys

import pytest

from aisp.errors import RewardError
from aisp.records import Candidate, Score
from aisp.rewards import (
    Avoids,
    Classifier,
    Coherence,
    Contains,
    FunctionReward,
    Length,
    LocalJudge,
    Regex,
    Remote,
    Reward,
    Sentiment,
    ValidJSON,
    minimum,
    normalize,
    product,
    veto,
    when,
)
from aisp.rewards.function import BatchReward
from aisp.rewards.spec import parse_reward
from aisp.testing import RewardContract, tiny_tokenizer
from tests.rewards.test_classifier import model_of
from tests.rewards.test_coherence import saved_encoder
from tests.rewards.test_remote import Server

CHECKS = sorted(name for name in dir(RewardContract) if name.startswith("test_"))


async def slowly(text):
    return float(len(text))


def length(text):
    return float(len(text))


BUILT_IN = {
    **{
        spec: functools.partial(parse_reward, spec)
        for spec in (
            "frequency:bread:1..2",
            "starts:Keep",
            "ends:hour.",
            'wrapped:"',
            "case:lower",
            "bullets:1..2",
            "parts:1..2:,",
            "code",
            "language:en",
            "readability:60..",
            "strict:length:3..9",
        )
    },
    "sentiment": lambda: Sentiment(measure="balance"),
    "length": lambda: Length(3, 9),
    "contains": lambda: Contains("bread", "bag"),
    "avoids": lambda: Avoids("sorry"),
    "regex": lambda: Regex("^K"),
    "json": ValidJSON,
    "function": lambda: FunctionReward(length),
    "async function": lambda: FunctionReward(slowly),
    "batch function": lambda: BatchReward(lambda candidates: [length(c.text) for c in candidates]),
    "sum": lambda: 0.5 * Length(3, 9) - Sentiment() + FunctionReward(slowly) + 2,
    "clip": lambda: FunctionReward(length).clip(2, 30),
    "minimum": lambda: minimum(Length(3, 9), FunctionReward(slowly)),
    "product": lambda: product(Length(3, 9), Sentiment()),
    "veto": lambda: FunctionReward(slowly) + veto(Avoids("sorry")),
    "when": lambda: when(lambda candidate: "a" in candidate.text, FunctionReward(slowly)) + Sentiment(),
    "normalize": lambda: normalize(FunctionReward(slowly)) + 0.3 * normalize(Sentiment()),
    "failing parts": lambda: (
        Sentiment() + FunctionReward(lambda text: 1 / (len(text) - 3), on_error="exclude", name="picky")
    ),
    "shared parts": lambda: (lambda kind: kind + veto(kind, below=-0.9) + when(kind, Length(3, 9)))(Sentiment()),
}


class TestBuiltIn(RewardContract):
    @pytest.fixture(autouse=True, params=sorted(BUILT_IN))
    def _give(self, request):
        self.reward = BUILT_IN[request.param]()
        self.others = [2 * self.reward]


@functools.cache
def classifier():
    return model_of(2), tiny_tokenizer()


class TestClassifiers(RewardContract):
    tolerance = 1e-3

    @pytest.fixture(autouse=True, params=["text", "pair", "chat"])
    def _give(self, request):
        model, tokenizer = classifier()
        self.reward = Classifier(model, tokenizer=tokenizer, input=request.param)
        self.others = [
            Classifier(model, tokenizer=tokenizer, input=request.param, **options)
            for options in ({"output": "probability"}, {"label": 0}, {"max_length": 9})
        ]

    # One of the odd texts is longer than the model reads, which it says.
    @pytest.mark.filterwarnings("ignore:reward 'classifier':UserWarning")
    def test_odd_texts_do_not_bring_it_down(self):
        super().test_odd_texts_do_not_bring_it_down()


class TestCoherence(RewardContract):
    tolerance = 1e-3

    @pytest.fixture(autouse=True)
    def _give(self, tmp_path):
        saved_encoder(tmp_path)
        self.reward = Coherence(tmp_path)
        self.others = [Coherence(tmp_path, pooling="first")]

    # One of the odd texts is longer than the model reads, which it says.
    @pytest.mark.filterwarnings("ignore:reward 'coherence':UserWarning")
    def test_odd_texts_do_not_bring_it_down(self):
        super().test_odd_texts_do_not_bring_it_down()


class TestLocalJudge(RewardContract):
    @pytest.fixture(autouse=True)
    def _give(self, tiny):
        self.reward = LocalJudge("Is it kind?", model=tiny)
        self.others = [LocalJudge("Is it true?", model=tiny)]
        self.candidates = RewardContract.candidates[:3]
        self.odd = RewardContract.odd[:4]


@pytest.fixture(scope="module")
def url():
    server = Server()
    yield server.url
    server.shutdown()
    server.server_close()


class TestRemote(RewardContract):
    @pytest.fixture(autouse=True)
    def _give(self, url):
        self.reward = Remote(url, "m", batch=2)
        self.others = [Remote(url, "n"), Remote(url, "m", "pooling")]


class Broken(Reward):
    """Scores by length, but for what a defect changes."""

    def _score(self, candidates):
        return [length(candidate.text) for candidate in candidates]


class Short(Broken):
    def score(self, candidates):
        return super().score(candidates)[:-1]


class NotFinite(Broken):
    def score(self, candidates):
        return [Score(value=float("inf"), parts={"x": 1.0}) for _ in candidates]


class Together(Broken):
    def _score(self, candidates):
        return [length(c.text) / max(length(other.text) for other in candidates) for c in candidates]


class ByPlace(Broken):
    def _score(self, candidates):
        return [float(place) for place, _ in enumerate(candidates)]


class Dice(Broken):
    counter = itertools.count()

    def _score(self, candidates):
        return [float(next(self.counter)) for _ in candidates]


class Repeating(Broken):
    def score(self, candidates):
        return self._checked(candidates)


class Forgetful(Broken):
    def session(self):
        return self


class Choosy(Broken):
    def _score(self, candidates):
        return [length(c.text.split()[0]) for c in candidates]


class AsciiOnly(Broken):
    def _score(self, candidates):
        return [length(c.text.encode("ascii").decode()) for c in candidates]


class Nervous(Broken):
    @property
    def fingerprint(self):
        return str(next(Dice.counter))


class Nameless(Broken):
    fingerprint = "reward"


class Otherwise(Broken):
    async def ascore(self, candidates):
        return [Score(value=0.0, parts={self.name: 0.0}) for _ in candidates]


class Learning(Broken):
    """Its sessions write into itself."""

    best = 0.0

    def _score(self, candidates):
        self.best = max([self.best, *(length(c.text) for c in candidates)])
        return [length(c.text) - self.best for c in candidates]


class Empty(Broken):
    def score(self, candidates):
        return super().score(candidates) if candidates else [Score(value=0.0)]


class Telling(Broken):
    def check(self):
        return "nothing is there"


DEFECTS = {
    Telling: "test_nothing_that_it_needs_is_missing",
    Short: "test_there_is_one_verdict_a_candidate",
    NotFinite: "test_values_are_finite",
    Together: "test_a_batch_is_scored_as_its_candidates_are",
    ByPlace: "test_their_order_does_not_matter",
    Dice: "test_verdicts_are_the_same_every_time",
    Repeating: "test_equal_candidates_are_scored_once",
    Forgetful: "test_a_session_remembers",
    Choosy: "test_odd_texts_do_not_bring_it_down",
    AsciiOnly: "test_odd_texts_do_not_bring_it_down",
    Nervous: "test_the_fingerprint_tells_configurations_apart",
    Nameless: "test_the_fingerprint_tells_configurations_apart",
    Otherwise: "test_async_is_like_sync",
    Learning: "test_a_session_leaves_it_as_it_is",
    Empty: "test_no_candidates_get_no_verdicts",
}


def contract_of(own):
    contract = RewardContract()
    contract.reward = own
    return contract


@pytest.mark.parametrize(("kind", "check"), DEFECTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_defect_is_caught(kind, check):
    with pytest.raises((AssertionError, RewardError)):
        getattr(contract_of(kind()), check)()


def test_the_defects_cover_every_check_and_without_them_all_pass():
    assert sorted(set(DEFECTS.values())) == CHECKS
    for check in CHECKS:
        getattr(contract_of(Broken()), check)()


def test_configurations_that_share_a_fingerprint_are_caught():
    contract = contract_of(Broken())
    contract.others = [Broken()]
    with pytest.raises(AssertionError, match="has the fingerprint of"):
        contract.test_the_fingerprint_tells_configurations_apart()


def test_parts_are_compared_too():
    class Shuffled(Broken):
        def _score(self, candidates):
            return [Score(value=1.0, parts={"n": float(next(Dice.counter))}) for _ in candidates]

    with pytest.raises(AssertionError, match="is not"):
        contract_of(Shuffled()).test_verdicts_are_the_same_every_time()


def test_pytest_is_not_needed():
    code = "import sys; sys.modules['pytest'] = None; from aisp.testing import RewardContract"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_candidates_differ():
    texts = [candidate.text for candidate in (*RewardContract.candidates, *RewardContract.odd)]
    assert len(set(texts)) == len(texts)
    assert all(isinstance(candidate, Candidate) for candidate in RewardContract.odd)
