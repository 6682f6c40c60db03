"""Rewards from IFEval's rows (Zhou et al., arXiv 2311.07911): prompts with instructions that can be verified.

row {"prompt", "instruction_id_list", "kwargs"}
  -> instruction(id, kwargs)    a rule for each of the 25 instruction types
  -> Row                        their mean; kept where all are, which is what IFEval's prompt-level accuracy counts
  -> IFEval                     a reward for a whole file: each candidate is graded by the row of its own prompt
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate, Score
from aisp.rewards.rules import (
    Avoids,
    Case,
    Contains,
    Elements,
    Ends,
    Every,
    FirstWord,
    Frequency,
    Graded,
    Language,
    Length,
    Matches,
    OneOf,
    Parts,
    Regex,
    Rule,
    Starts,
    ValidJSON,
    Wrapped,
    postscript,
)

_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
# <<something>> on one line: from its first << past blanks and brackets to its last >>. Atomic groups keep it linear.
_TITLE = r"(?m)^(?>[^\n]*?<<)(?>(?:(?!\n)[\s<>])*)[^\s<>](?>[^\n]*>>)"
_NEARLY_A_TITLE = r"<[^<>\n]+>|^\s*#"


class Row(Every):
    """The mean of a row's instructions; an empty response keeps none.

    Args:
        instruction_id_list: As `punctuation:no_comma`.
        kwargs: What each one takes; nulls are left out.
    """

    def __init__(self, instruction_id_list: Sequence[str], kwargs: Sequence[Mapping[str, Any]], **options: Any) -> None:
        if not instruction_id_list or len(instruction_id_list) != len(kwargs):
            raise ConfigurationError(
                f"a row has {len(instruction_id_list)} instructions and {len(kwargs)} kwargs; expected one each"
            )
        self.instructions = tuple(instruction_id_list)
        super().__init__(*map(instruction, instruction_id_list, kwargs), **{"name": "ifeval", **options})

    def grade_text(self, text: str) -> float:
        return super().grade_text(text) if text.strip() else 0.0

    def broken(self, text: str) -> list[str]:
        """Return the ids of the instructions that a response does not keep."""
        grades = [rule.grade_text(text) if text.strip() else 0.0 for rule in self.rules]
        return [name for name, grade in zip(self.instructions, grades, strict=True) if grade < 1.0]

    def grade(self, candidate: Candidate) -> Score:
        broken = self.broken(candidate.text)
        comment = f"not kept: {', '.join(broken)}" if broken else None
        return Score(value=self.grade_text(candidate.text), comment=comment)


class IFEval(Graded):
    """Grades each candidate by the row of its own prompt.

    A candidate's row is its `reference`, where that has `instruction_id_list` and `kwargs`; else the row whose prompt
    is the text of its last user message.

    Args:
        rows: With `prompt`, `instruction_id_list` and `kwargs` each; or a JSONL file of them.
    """

    cost = 0.02

    def __init__(self, rows: Sequence[Mapping[str, Any]] | str | Path = (), **options: Any) -> None:
        super().__init__(**options)
        read = _read(Path(rows)) if isinstance(rows, str | Path) else rows
        self._rows: dict[str, Row] = {}
        self._made: dict[str, Row] = {}
        for number, row in enumerate(read, start=1):
            self._add(number, row)
        self.rows = _digest([(prompt, row.fingerprint) for prompt, row in self._rows.items()])

    def row(self, candidate: Candidate) -> Row:
        """Return the row that a candidate is graded by.

        Raises:
            RewardError: There is none.
        """
        if isinstance(candidate.reference, Mapping) and "instruction_id_list" in candidate.reference:
            key = _digest(candidate.reference)
            if key not in self._made:
                self._made[key] = make_row(candidate.reference)
            return self._made[key]
        prompt = next((m.get("content") for m in reversed(candidate.messages) if m.get("role") == "user"), None)
        if not isinstance(prompt, str) or prompt not in self._rows:
            raise RewardError(
                f"reward {self.name!r} has no row for the prompt {prompt!r}; give the prompts' own file, or the row as "
                "the candidate's reference"
            )
        return self._rows[prompt]

    def grade(self, candidate: Candidate) -> Score:
        return self.row(candidate).grade(candidate)

    def _add(self, number: int, row: Mapping[str, Any]) -> None:
        try:
            prompt, made = row["prompt"], make_row(row)
        except (KeyError, TypeError, ConfigurationError) as error:
            raise ConfigurationError(
                f"row {number} is not a row of IFEval: {error}; expected prompt, instruction_id_list and kwargs"
            ) from error
        known = self._rows.setdefault(prompt, made)
        if known.fingerprint != made.fingerprint:
            raise ConfigurationError(
                f"row {number} has the prompt of an earlier one and other instructions: {prompt!r}"
            )


def make_row(row: Mapping[str, Any]) -> Row:
    """Return the reward of a row. See `Row`."""
    return Row(row["instruction_id_list"], row["kwargs"])


def instruction(instruction_id: str, kwargs: Mapping[str, Any]) -> Rule:
    """Return the rule that an instruction stands for.

    Raises:
        ConfigurationError: An id that is none of the 25, or arguments that it doesn't take.
    """
    if instruction_id not in INSTRUCTIONS:
        raise ConfigurationError(f"there is no instruction {instruction_id!r}; there are {', '.join(INSTRUCTIONS)}")
    build = INSTRUCTIONS[instruction_id]
    given = {key: value for key, value in kwargs.items() if value is not None}
    try:
        inspect.signature(build).bind(**given)
    except TypeError as error:
        raise ConfigurationError(f"{instruction_id} got {given}: {error}") from error
    return build(**given)


def _bounds(relation: str, number: int) -> tuple[int, int | None]:
    if relation == "at least":
        return number, None
    if relation == "less than" and number > 0:
        return 0, number - 1
    raise ConfigurationError(f'{relation!r} {number} is not a bound; expected "at least", or "less than" more than 0')


def _english(case: Any) -> Rule:
    return Every(Case(case), Language("en"))


def _words(relation: str, num_words: int) -> Rule:
    # A word is a run of letters and digits here: "it's" is two.
    return Matches(r"\w+", *_bounds(relation, num_words))


def _keyword(relation: str, keyword: str, frequency: int) -> Rule:
    return Frequency(keyword.strip(), *_bounds(relation, frequency), whole=False)


def _letter(let_relation: str, letter: str, let_frequency: int) -> Rule:
    return Frequency(letter, *_bounds(let_relation, let_frequency), whole=False)


def _capitals(capital_relation: str, capital_frequency: int) -> Rule:
    return Elements("capitals", *_bounds(capital_relation, capital_frequency))


def _sentences(relation: str, num_sentences: int) -> Rule:
    return Length(*_bounds(relation, num_sentences), unit="sentences")


def _sections(section_spliter: str, num_sections: int) -> Rule:
    return Matches(rf"{re.escape(section_spliter.strip())}\s?\d+", num_sections)


def _first_word(num_paragraphs: int, nth_paragraph: int, first_word: str) -> Rule:
    return FirstWord(first_word, nth_paragraph, num_paragraphs)


# The parameters' names are those of the rows.
INSTRUCTIONS: Mapping[str, Callable[..., Rule]] = {
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda: _english("upper"),
    "change_case:english_lowercase": lambda: _english("lower"),
    "combination:repeat_prompt": lambda prompt_to_repeat: Starts(prompt_to_repeat),
    "combination:two_responses": lambda: Parts(2, 2, separator="******", distinct=True),
    "detectable_content:number_placeholders": lambda num_placeholders: Elements("placeholders", num_placeholders),
    "detectable_content:postscript": lambda postscript_marker: postscript(postscript_marker),
    "detectable_format:constrained_response": lambda: OneOf(*_ANSWERS),
    "detectable_format:json_format": lambda: ValidJSON(fenced=True),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": lambda num_bullets: Elements("bullets", num_bullets, num_bullets),
    "detectable_format:number_highlighted_sections": lambda num_highlights: Elements("highlights", num_highlights),
    "detectable_format:title": lambda: Regex(_TITLE, near=_NEARLY_A_TITLE),
    "keywords:existence": lambda keywords: Contains(*keywords, whole=False),
    "keywords:forbidden_words": lambda forbidden_words: Avoids(*forbidden_words),
    "keywords:frequency": _keyword,
    "keywords:letter_frequency": _letter,
    "language:response_language": lambda language: Language(language),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": lambda num_paragraphs: Parts(num_paragraphs, num_paragraphs),
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": lambda: Frequency(",", 0, 0, whole=False),
    "startend:end_checker": lambda end_phrase: Ends(end_phrase),
    "startend:quotation": lambda: Wrapped('"'),
}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the rows of IFEval can't be read from {path}: {error}") from error
    if not rows:
        raise ConfigurationError(f"{path} holds no rows of IFEval; expected one a line, as JSON")
    return rows
