"""Rules as words, for the command line: `aisp.rewards.spec` lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Rule
from aisp.rewards.rules.data import Schema, ValidJSON, ValidPython
from aisp.rewards.rules.edges import Case, Ends, Starts, Wrapped
from aisp.rewards.rules.language import Language
from aisp.rewards.rules.layout import Elements, Kind, Parts
from aisp.rewards.rules.length import Length
from aisp.rewards.rules.readability import Readability
from aisp.rewards.rules.words import Avoids, Contains, Frequency, Regex

_RANGE = re.compile(r"(-?\d*)\.\.(-?\d*)(?::(.+))?", re.DOTALL)


def plain(kind: Callable[[], Any], name: str) -> Callable[[str], Any]:
    """Return what builds a reward that takes no arguments."""

    def build(arguments: str) -> Any:
        if arguments:
            raise ConfigurationError(f"{name} takes no arguments, and got {arguments!r}")
        return kind()

    return build


def _range(arguments: str, name: str, example: str) -> tuple[int | None, int | None, str | None]:
    found = _RANGE.fullmatch(arguments)
    if not found:
        raise ConfigurationError(
            f"{name}:{arguments} has no range; expected {name}:LOW..HIGH, as in {name}:{example}, where either may be "
            "left out"
        )
    low, high, rest = found.groups()
    return int(low) if low else None, int(high) if high else None, rest


def _length(arguments: str) -> Rule:
    low, high, unit = _range(arguments, "length", "20..40:words")
    options: dict[str, Any] = {} if unit is None else {"unit": unit}
    return Length(low or 0, high, **options)


def _readability(arguments: str) -> Rule:
    low, high, measure = _range(arguments, "readability", "60..80:ease")
    options: dict[str, Any] = {} if measure is None else {"measure": measure}
    return Readability(low, high, **options)


def _frequency(arguments: str) -> Rule:
    phrase, _, bounds = arguments.rpartition(":")
    low, high, rest = _range(bounds, f"frequency:{phrase or 'WORD'}", "2..4")
    return Frequency(_nothing_after(phrase, rest), low or 0, high)


def _parts(arguments: str) -> Rule:
    low, high, separator = _range(arguments, "parts", "2..2:***")
    options: dict[str, Any] = {} if separator is None else {"separator": separator}
    return Parts(1 if low is None else low, high, **options)


def _elements(kind: Kind) -> Callable[[str], Rule]:
    def build(arguments: str) -> Rule:
        low, high, rest = _range(arguments, kind, "3..5")
        return Elements(_nothing_after(kind, rest), low or 0, high)

    return build


def _nothing_after(what: Any, rest: str | None) -> Any:
    if rest is not None:
        raise ConfigurationError(f"{what} takes a range, and got {rest!r} after it")
    return what


def _wrapped(arguments: str) -> Rule:
    marks = arguments.split()
    if len(marks) not in (1, 2):
        raise ConfigurationError(
            f"wrapped:{arguments} has {len(marks)} marks; expected one, or two as in wrapped:<< >>"
        )
    return Wrapped(*marks)


def _schema(arguments: str) -> Rule:
    try:
        return Schema(json.loads(Path(arguments).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"schema:{arguments} holds no JSON schema: {error}") from error


def _phrases(kind: Callable[..., Rule]) -> Callable[[str], Rule]:
    return lambda arguments: kind(*(phrase.strip() for phrase in arguments.split(",") if phrase.strip()))


RULES: Mapping[str, Callable[[str], Rule]] = {
    "avoids": _phrases(Avoids),
    "case": Case,  # type: ignore[dict-item]
    "code": plain(ValidPython, "code"),
    "contains": _phrases(Contains),
    "ends": Ends,
    "frequency": _frequency,
    "json": plain(ValidJSON, "json"),
    "language": Language,
    "length": _length,
    "parts": _parts,
    "readability": _readability,
    "regex": Regex,
    "schema": _schema,
    "starts": Starts,
    "wrapped": _wrapped,
    **{kind: _elements(kind) for kind in get_args(Kind)},
}
