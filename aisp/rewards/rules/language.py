"""The language of a text, by py3langid: a model that comes with the library, deterministic, offline."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Rule, average, below_one
from aisp.rewards.rules.units import sentences

# The look behind keeps a long word from being read again from each of its letters.
_ADDRESS = re.compile(r"https?://[^\s<>()]+|(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]+")


class Language(Rule):
    """1 where a text as a whole is most likely in a language. Needs the `rules` extra.

    Else the mean over its sentences, by their lengths, of the language's probability over that of the likeliest one, in
    hundredths: a thousandth is the identifier's noise, which a search would climb. Addresses of the web and of mail are
    in no language. A text without letters is in no other language, and scores 1.

    Args:
        language: ISO 639-1 code, as "en".
    """

    cost = 0.02

    def __init__(self, language: str, **options: Any) -> None:
        super().__init__(**options)
        if language not in _identifier().labels:
            raise ConfigurationError(f"there is no language {language!r}; there are {', '.join(_identifier().labels)}")
        self.language = language

    def grade_text(self, text: str) -> float:
        text = _ADDRESS.sub(" ", text)
        if not any(map(str.isalpha, text)) or _likelihood(text, self.language) == 1.0:
            return 1.0
        pieces = [piece for piece in sentences(text) if any(map(str.isalpha, piece))]
        lengths = [float(len(piece)) for piece in pieces]
        # The whole, which is not in the language, counts too: so no text is 1 by its sentences alone.
        mean = average(
            [_likelihood(text, self.language), *(_likelihood(piece, self.language) for piece in pieces)],
            [1.0, *lengths],
        )
        return below_one(round(mean, 2))


def _likelihood(text: str, language: str) -> float:
    ranked = _identifier().rank(text)
    best, own = ranked[0][1], dict(ranked)[language]
    return float(own / best)


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigurationError('language needs py3langid: pip install "aisp-langchain[rules]"') from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
