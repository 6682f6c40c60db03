"""What of a JSON schema decoding can be held to, and what it can't, named.

    schema --hoist--> references into $defs --approximate--> what llguidance knows --compile--> Held(schema, unheld)

What is left out of the grammar is checked when the answer is there (`violation`), so that an answer that breaks it is
an error and never a surprise.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aisp.engines.bounds import check_schema
from aisp.errors import ConfigurationError
from aisp.forms.approximation import Unheld, approximate, target_of
from aisp.forms.references import hoist
from aisp.forms.schemas import walk

_LOOSENED = (
    *("pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("maxLength", "minLength", "maxItems", "minItems", "minProperties", "maxProperties", "patternProperties"),
    *("prefixItems", "allOf", "anyOf", "enum", "const", "items", "additionalProperties", "type"),
)
_TRIES = 400  # compilations that are spent on finding out what of a schema can't be held


class SchemaWarning(UserWarning):
    """A part of a schema that decoding can't be held to, and that is checked afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A schema as the grammar has it.

    Args:
        schema: What decoding is held to; every reference leads into its `$defs`.
        unheld: What is left out of it.
        impossible: Why nothing can follow the schema; None where something can.
    """

    schema: dict[str, Any]
    unheld: tuple[Unheld, ...] = ()
    impossible: str | None = None


def hold(schema: Any, what: str) -> Held:
    """Return what decoding is held to for a schema. What can't be held is a `SchemaWarning`, once a schema.

    Args:
        schema: A JSON schema.
        what: How messages call it, as "the tool look".

    Raises:
        ConfigurationError: It is too large, or it isn't a JSON schema at all.
    """
    check_schema(schema, what)
    try:
        written = json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{what} isn't JSON: {error}") from error
    return _hold(written, what)


@lru_cache(maxsize=512)
def _hold(written: str, what: str) -> Held:
    schema = json.loads(written)
    hoisted, lost = hoist(schema)
    held, left_out = approximate(hoisted)
    if isinstance(held, dict) and "$defs" in held:
        held = _without_endless(held)
    held, more, impossible = _compilable(held)
    unheld = (*lost, *left_out, *more)
    if unheld and impossible is None:
        parts = "; ".join(f"{part.where}: {part.what}" for part in unheld[:8])
        warnings.warn(
            f"decoding can't be held to all of {what}, and answers are checked for the rest afterwards ({parts}"
            f"{'; and more' if len(unheld) > 8 else ''})",
            SchemaWarning,
            stacklevel=2,
        )
    return Held(schema=held, unheld=unheld, impossible=impossible)


def violation(value: Any, schema: Any, *, ignored: Sequence[str] = ()) -> str | None:
    """Return what is wrong with a value by its JSON schema, and where; None where nothing is, or nobody can tell.

    Args:
        value: What a model wrote.
        schema: As it was given.
        ignored: Keywords that don't count.
    """
    try:
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry
    except ImportError:
        return None
    try:
        # Without a registry of its own a validator would fetch what references name.
        validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
        for error in validator.iter_errors(value):
            if error.validator not in ignored:
                return f"{'/'.join(map(str, error.absolute_path)) or 'the value'}: {error.message[:300]}"
    except Exception:  # noqa: BLE001 - a schema that can't be checked says nothing of a value
        return None
    return None


def _without_endless(schema: dict[str, Any]) -> Any:
    """Return a schema in which nothing may be what has no end: the compiler takes it, and decoding gets stuck in it."""
    endless = schema["$defs"].keys() - _ending(schema["$defs"])
    if not endless:
        return schema
    kept = {**schema, "$defs": {name: part for name, part in schema["$defs"].items() if name not in endless}}
    done = walk(kept, lambda own: False if target_of(own.get("$ref")) in endless else own)
    return done if isinstance(done, dict) else {"anyOf": [False]}


def _ending(definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions that some finite value follows: an object that requires itself has none."""
    found: set[str] = set()
    while True:
        more = {name for name, part in definitions.items() if name not in found and _ends(part, found)}
        if not more:
            return found
        found |= more


def _ends(part: Any, ending: set[str]) -> bool:
    if not isinstance(part, Mapping):
        return part is not False
    name = target_of(part.get("$ref"))
    if name is not None and name not in ending:
        return False
    if any(not _ends(one, ending) for one in part.get("allOf", ())):
        return False
    if "anyOf" in part and not any(_ends(one, ending) for one in part["anyOf"]):
        return False
    if part.get("type") == "object":
        named = part.get("properties", {})
        return all(_ends(named[key], ending) for key in part.get("required", ()) if key in named)
    if part.get("type") == "array":
        first, least = part.get("prefixItems", ()), part.get("minItems", 0)
        return all(_ends(one, ending) for one in first[:least]) and (
            least <= len(first) or _ends(part.get("items", True), ending)
        )
    return True


def _compilable(schema: dict[str, Any]) -> tuple[dict[str, Any], list[Unheld], str | None]:
    """Loosen what llguidance refuses, from the innermost outwards."""
    try:
        from llguidance import LLMatcher
    except ImportError:  # whoever compiles it says so
        return schema, [], None

    tries = 0

    def refusal(part: Any, definitions: Mapping[str, Any]) -> str | None:
        nonlocal tries
        tries += 1
        if isinstance(part, bool):
            return None
        whole = {**part, "$defs": {**definitions}} if definitions else part
        wrong, messages = LLMatcher.validate_grammar_with_warnings("start: %json " + json.dumps(whole), None)
        return "; ".join(messages).split("\n")[0].partition("JSON schema: ")[2] or str(messages) if wrong else None

    why = refusal({k: v for k, v in schema.items() if k != "$defs"}, schema.get("$defs", {}))
    if why is None:
        return schema, [], None
    if why.startswith("Unsatisfiable"):
        return schema, [], why
    definitions = dict(schema.get("$defs", {}))
    unheld: list[Unheld] = []

    def loosened(part: Any, path: str) -> Any:
        if not isinstance(part, Mapping) or tries > _TRIES:
            return part
        why = refusal(part, definitions)
        if why is None or why.startswith("Unsatisfiable"):
            return part
        done = {key: _inner(key, value, path, loosened) for key, value in part.items()}
        for key in ("", *_LOOSENED):
            tried = {name: value for name, value in done.items() if name != key}
            if (key in done or not key) and refusal(tried, definitions) is None:
                if key:
                    unheld.append(Unheld(where=path, what=f"{key} ({why})"))
                return tried
        unheld.append(Unheld(where=path, what=why))
        return {}

    for name in list(definitions):
        definitions[name] = loosened(definitions[name], f"#/$defs/{name}")
    root = loosened({k: v for k, v in schema.items() if k != "$defs"}, "#")
    done = {**root, "$defs": definitions} if definitions else root
    why = refusal(root, definitions)
    if why is not None and not why.startswith("Unsatisfiable"):
        return {}, [*unheld, Unheld(where="#", what=why)], None
    return done, unheld, why


def _inner(key: str, value: Any, path: str, change: Any) -> Any:
    """Change the schemas that stand at a keyword."""
    if key in ("properties", "patternProperties") and isinstance(value, Mapping):
        return {name: change(part, f"{path}/{key}/{name}") for name, part in value.items()}
    if key in ("anyOf", "allOf", "prefixItems", "oneOf") and isinstance(value, list):
        return [change(part, f"{path}/{key}/{index}") for index, part in enumerate(value)]
    return change(value, f"{path}/{key}") if key in ("items", "additionalProperties") else value
