"""Texts that have to parse: JSON, JSON of a schema, Python. What does not scores below 0.5, where a veto closes."""

from __future__ import annotations

import ast
import json
import re
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from aisp.errors import ConfigurationError
from aisp.rewards.rules.base import Rule

_FENCE = re.compile(r"\A```(?:json)?|```\Z", re.IGNORECASE)
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)
# Warning filters are the process's: one thread at a time may set them aside.
_WARNINGS = threading.Lock()


class ValidJSON(Rule):
    """1 where the text is JSON, else half the share of it that comes before the first error.

    Args:
        fenced: Whether a Markdown code fence round it is allowed.
    """

    def __init__(self, *, fenced: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.fenced = fenced

    def grade_text(self, text: str) -> float:
        return _read_json(text, self.fenced)[1]


class Schema(Rule):
    """1 where the text is JSON of a schema. Needs the `rules` extra.

    Else half of what `ValidJSON` says of text that isn't JSON, and (1 + 1/(1 + errors))/4 for JSON that violates the
    schema. References go to the schema itself: nothing is fetched.

    Args:
        schema: A JSON schema.
        fenced: Whether a Markdown code fence round the text is allowed.
    """

    cost = 0.01

    def __init__(self, schema: Mapping[str, Any] | bool, *, fenced: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.schema, self.fenced = schema if isinstance(schema, bool) else dict(schema), fenced
        self._validator = _validator(self.schema)

    def grade_text(self, text: str) -> float:
        value, grade = _read_json(text, self.fenced)
        if grade < 1.0:
            return grade / 2
        errors = self._errors(value)
        return (1 + 1 / (1 + errors)) / 4 if errors else 1.0

    def _errors(self, value: Any) -> int:
        try:
            return sum(1 for _ in self._validator.iter_errors(value))
        except (
            ArithmeticError,
            ValueError,
            RecursionError,
        ):  # infinities, numbers and nesting beyond what it can check
            return 1


class ValidPython(Rule):
    """1 where the text is Python that parses, else half the share of its lines before the first error. Nothing is run.

    Args:
        fenced: Whether only what stands in Markdown code blocks counts, where there are any.
    """

    def __init__(self, *, fenced: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.fenced = fenced

    def grade_text(self, text: str) -> float:
        blocks = _BLOCK.findall(text) if self.fenced else []
        return _parses("\n".join(blocks) if blocks else text)


def _read_json(text: str, fenced: bool) -> tuple[Any, float]:
    """Return what a text means, and its grade."""
    if fenced:
        text = _FENCE.sub("", text.strip()).strip()
    try:
        return json.loads(text), 1.0
    except json.JSONDecodeError as error:
        return None, error.pos / (len(text) + 1) / 2
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        return None, 0.0


def _parses(code: str) -> float:
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except SyntaxError as error:
        lines = code.count("\n") + 1
        return min(max((error.lineno or 1) - 1, 0), lines) / (lines + 1) / 2
    except (ValueError, RecursionError, MemoryError):  # null characters, thousands of brackets
        return 0.0
    return 1.0


def _validator(schema: Any) -> Any:
    try:
        import jsonschema
        from jsonschema_specifications import REGISTRY
    except ImportError as error:
        raise ConfigurationError('a schema needs jsonschema: pip install "aisp-langchain[rules]"') from error
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"the schema is not a JSON schema: {error.message}") from error
    return kind(schema, registry=REGISTRY)
