"""Rules, the lexicon, and rewards as words for the command line."""

from __future__ import annotations

import pytest

from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.rewards import Avoids, Classifier, Contains, Length, Regex, Sentiment, ValidJSON
from aisp.rewards.spec import parse_reward, parse_rewards


def value_of(reward, text):
    return reward.score([Candidate(messages=[], text=text)])[0].value


@pytest.mark.parametrize(
    ("rule", "text", "value"),
    [
        (Length(2, 4), "one two three", 1.0),
        (Length(2, 4), "one", 0.5),
        (Length(2, 4), "a b c d e f g h", 0.5),
        (Length(0, 4), "", 1.0),
        (Length(3), "", 0.0),
        (Length(3, 3, unit="characters"), "日本語", 1.0),
        (Length(2, 2, unit="sentences"), "It rains. Does it?! ", 1.0),
        (Length(2, 2, unit="sentences"), "It costs 3.50 now. And", 1.0),
        (Contains("rain", "Snow"), "RAIN and sleet", 0.5),
        (Contains("rain"), "a train", 0.5),
        (Avoids("sorry"), "Sorry, no", 0.0),
        (Avoids("a", "b"), "only b", 0.5),
        (Regex("^Dear"), "Dear Ann", 1.0),
        (Regex("^Dear"), "Oh Dear", 0.0),
        (ValidJSON(), '{"a": [1]}', 1.0),
        (ValidJSON(), "{a: 1}", 1 / 14),
        (ValidJSON(), "", 0.0),
    ],
)
def test_rules(rule, text, value):
    assert value_of(rule, text) == value


def test_sentiment_tells_warm_from_cold():
    texts = ("I love this wonderful day!", "It is a day.", "I hate this horrible day.")
    for measure in ("compound", "balance"):
        warm, plain, cold = (value_of(Sentiment(measure=measure), text) for text in texts)
        assert warm > plain == 0.0 > cold


@pytest.mark.parametrize(
    "build",
    [
        lambda: Length(3, 2),
        lambda: Length(unit="lines"),
        lambda: Contains(),
        lambda: Avoids(""),
        lambda: Regex("("),
        lambda: Sentiment(measure="mood"),
        lambda: Classifier("x", input="words"),
        lambda: Classifier("x", output="best"),
        lambda: Classifier(object()),
        lambda: parse_reward("kindness"),
        lambda: parse_reward("length:five"),
        lambda: parse_reward("json:strict"),
        lambda: parse_reward("sentiment:joy"),
        lambda: parse_reward("python:nowhere:f"),
    ],
)
def test_bad_arguments_are_errors_when_built(build):
    with pytest.raises(ConfigurationError):
        build()


def test_words_make_rewards():
    reward = parse_rewards(["0.5*length:2..4:words", "-1 * contains:rain, snow", "veto:avoids:x", "json", "regex:^a:b"])
    score = reward.score([Candidate(messages=[], text="a:b snow")])[0]
    assert score.parts == {"length": 1.0, "contains": 0.5, "avoids": 1.0, "validjson": 0.0, "regex": 1.0}
    assert score.value == 0.5 - 0.5 + 0.0 + 1.0
    assert parse_rewards([]) is None
    assert parse_reward("sentiment:balance").fingerprint == Sentiment(measure="balance").fingerprint
    assert value_of(parse_reward("python:builtins:len"), "abc") == 3
