"""Rewards as words, for the command line.

sentiment                       lexicon sentiment, -1 to 1; also sentiment:balance
length:20..40                   words; length:20..40:sentences or :characters
contains:rain,snow              share of the words that occur
avoids:sorry,unfortunately      1 where none occurs
frequency:rain:2..4             how often a word or phrase occurs
regex:^Dear                     1 where it is found
starts:Dear, ends:Yours, Ann    how a text begins or ends
wrapped:"                       what it stands between; wrapped:<< >>
case:lower                      also case:upper
bullets:3..5                    also numbered, headings, paragraphs, highlights, placeholders, capitals
parts:2..2:***                  parts with a separator between them
json                            1 where the text is JSON
schema:FILE                     where it is JSON of a schema
code                            where it is Python that parses
language:en                     the language of a text
readability:60..                Flesch's reading ease; readability:..8:grade for school years
classifier:FOLDER               also classifier:FOLDER:pair, classifier:FOLDER:text:probability
coherence:FOLDER                cosine of prompt and response as a sentence encoder embeds them
ifeval:FILE                     each prompt's own instructions, from a JSONL file of IFEval's rows
judge:MODEL:QUESTION            a local chat model's verdict, 0 to 1, as judge:smollm2-135m:Is the answer kind?
python:module:function          a function or reward of your own
strict:SPEC                     a rule as 1 or 0; else it says how far off a text is
veto:SPEC                       what breaks a rule, or else scores below 0.5, is never returned
0.5*SPEC                        a weight
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from aisp.errors import ConfigurationError
from aisp.rewards.algebra import veto
from aisp.rewards.base import Reward, Sum, scaled
from aisp.rewards.classifier import Classifier
from aisp.rewards.coherence import Coherence
from aisp.rewards.function import FunctionReward
from aisp.rewards.ifeval import IFEval
from aisp.rewards.local_judge import LocalJudge
from aisp.rewards.rules import as_strict
from aisp.rewards.rules.spec import RULES
from aisp.rewards.sentiment import Sentiment

_WEIGHTED = re.compile(r"\s*([+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*\*\s*(.+)", re.DOTALL)


def parse_rewards(specs: Sequence[str]) -> Reward | None:
    """Return the sum of some rewards; None of none.

    Raises:
        ConfigurationError: A word that names no reward, or arguments that it doesn't take.
    """
    rewards = [parse_reward(spec) for spec in specs]
    if not rewards:
        return None
    return rewards[0] if len(rewards) == 1 else Sum(*rewards)


def parse_reward(spec: str) -> Reward:
    """Return the reward that one specification stands for. See `parse_rewards`."""
    weighted = _WEIGHTED.fullmatch(spec)
    if weighted:
        return scaled(parse_reward(weighted[2]), float(weighted[1]))
    name, _, arguments = spec.strip().partition(":")
    if name not in _BUILDERS:
        raise ConfigurationError(
            f"{spec!r} names no reward; there are {', '.join(sorted(_BUILDERS))}, and 0.5*NAME weighs one"
        )
    return _BUILDERS[name](arguments)


def _classifier(arguments: str) -> Reward:
    source, *rest = arguments.split(":")
    return Classifier(source, **dict(zip(("input", "output", "label"), rest, strict=False)))  # type: ignore[arg-type]


def _coherence(arguments: str) -> Reward:
    source, *rest = arguments.split(":")
    return Coherence(source, **dict(zip(("pooling",), rest, strict=False)))  # type: ignore[arg-type]


def _judge(arguments: str) -> Reward:
    model, colon, question = arguments.rpartition(":")
    if not (colon and model and question.strip()):
        raise ConfigurationError(f"judge:{arguments} has no question; expected judge:MODEL:QUESTION")
    return LocalJudge(question.strip(), model=model)


def _sentiment(arguments: str) -> Reward:
    measure: Any = arguments or "compound"  # Sentiment checks it
    return Sentiment(measure=measure)


def _python(arguments: str) -> Reward:
    module, _, attribute = arguments.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"python:{arguments} can't be found: {error}; expected python:module:function"
        ) from error
    return found if isinstance(found, Reward) else FunctionReward(found, version=arguments)


def _ifeval(arguments: str) -> Reward:
    if not arguments:
        raise ConfigurationError("ifeval has no file; expected ifeval:FILE, as a JSONL file of IFEval's rows")
    return IFEval(arguments)


_BUILDERS: dict[str, Callable[[str], Reward]] = {
    **RULES,
    "classifier": _classifier,
    "coherence": _coherence,
    "ifeval": _ifeval,
    "judge": _judge,
    "python": _python,
    "sentiment": _sentiment,
    "strict": lambda arguments: as_strict(parse_reward(arguments)),
    "veto": lambda arguments: veto(parse_reward(arguments)),
}
