"""JSON schemas made of what llguidance knows: said in its keywords where that is exact, left out and named where not.

Objects with named properties get no others unless they say so, since a small model, left to, goes on with properties of
its own until its tokens are spent. Nothing is added beside unions, whose parts may add up.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aisp.forms.formats import FORMATS, NATIVE, holdable_pattern

_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_NOTES = (
    *("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly", "nullable"),
    *("contentEncoding", "contentMediaType", "contentSchema", "discriminator", "$anchor", "$dynamicAnchor", "$id"),
    *("$schema", "$defs", "definitions", "$vocabulary", "$recursiveAnchor"),
)
_UNKNOWN = (
    *("if", "then", "else", "contains", "minContains", "maxContains", "dependentRequired", "dependentSchemas"),
    *("dependencies", "unevaluatedProperties", "unevaluatedItems"),
)
_IMPLIED = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "propertyNames"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
}
_UNIONS = ("anyOf", "oneOf", "allOf", "$ref", "enum", "const", "if", "not")
_ADDING = ("anyOf", "oneOf", "allOf", "$ref", "if", "dependentSchemas", "unevaluatedProperties", "dependencies")
_WIDEST = 9 * 10**18  # whole numbers that llguidance counts in 64 bits
_WIDE, _NARROW = 1e15, 1e-9  # and numbers whose bounds it can write out
_FINEST = 10_000
_LISTED = 4  # values of which every list without repetition is written out


@dataclass(frozen=True, slots=True, kw_only=True)
class Unheld:
    """A part of a schema that the grammar doesn't have.

    Args:
        where: The path of it, as `#/properties/tags`.
        what: The keyword, or what is wrong with it.
    """

    where: str
    what: str


@dataclass(slots=True)
class _Pass:
    definitions: dict[str, Any]
    unheld: list[Unheld] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)  # definitions that come with it

    def leave_out(self, own: dict[str, Any], key: str, where: str, why: str = "") -> None:
        own.pop(key)
        self.unheld.append(Unheld(where=where, what=f"{key}{f' ({why})' if why else ''}"))


def approximate(schema: Any) -> tuple[Any, list[Unheld]]:
    """Return a schema whose references lead into its `$defs` in llguidance's keywords, and what is left out of it."""
    if not isinstance(schema, Mapping):
        return schema, []
    definitions = dict(schema.get("$defs", {}))
    work = _Pass(definitions)
    added_to = _added_to(schema, definitions)
    done = _node({k: v for k, v in schema.items() if k != "$defs"}, "#", work, may_close=True)
    written = {
        name: _node(part, f"#/$defs/{name}", work, may_close=name not in added_to) for name, part in definitions.items()
    }
    if (written or work.more) and isinstance(done, dict):
        done["$defs"] = {**written, **work.more}
    return done, work.unheld


def _node(schema: Any, where: str, work: _Pass, *, may_close: bool) -> Any:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        work.unheld.append(Unheld(where=where, what=f"a schema that is {type(schema).__name__}"))
        return {}
    own = {key: value for key, value in schema.items() if key not in _NOTES}
    if own.get("not") in ({}, True):
        return False
    _read_types(own, where, work)
    for key in (*_UNKNOWN, "not"):
        if key in own and not (key in ("then", "else") and "if" not in schema):
            work.leave_out(own, key, where)
    for change in (_numbers, _strings, _keys, _distinct, _unions):
        change(own, where, work)
    least, others = own.get("minProperties"), own.get("additionalProperties", "properties" not in own)
    if isinstance(least, int) and least > 1 and ("patternProperties" in own or others is not False):
        work.unheld.append(Unheld(where=where, what="minProperties (a name may be written twice)"))
    adding = any(key in own for key in _ADDING) and not _only_asks(own)
    objects = any(key in own for key in _IMPLIED["object"])
    # A part of a union that is all there is to it may be closed; one that adds to what stands beside it may not.
    inner = may_close and not objects
    for key, value in list(own.items()):
        own[key] = _inner(key, value, where, work, inner)
    if may_close and not adding:
        _close(own)
    return own


def _inner(key: str, value: Any, where: str, work: _Pass, may_close: bool) -> Any:
    path = f"{where}/{key}"
    if key in ("properties", "patternProperties") and isinstance(value, Mapping):
        return {name: _node(part, f"{path}/{name}", work, may_close=True) for name, part in value.items()}
    if key == "anyOf" and isinstance(value, list):
        return [_node(part, f"{path}/{index}", work, may_close=may_close) for index, part in enumerate(value)]
    if key == "allOf" and isinstance(value, list):
        return [_node(part, f"{path}/{index}", work, may_close=False) for index, part in enumerate(value)]
    if key in ("prefixItems", "items") and isinstance(value, list):
        return [_node(part, f"{path}/{index}", work, may_close=True) for index, part in enumerate(value)]
    if key in ("items", "additionalProperties", "additionalItems"):
        return _node(value, path, work, may_close=True)
    return value


def _only_asks(own: Mapping[str, Any]) -> bool:
    """Whether all that stands beside the properties asks for some of them, and so adds none."""
    if any(key in own for key in _ADDING if key != "anyOf"):
        return False
    parts, named = own.get("anyOf"), own.get("properties")
    return (
        isinstance(named, Mapping)
        and isinstance(parts, list)
        and all(
            isinstance(part, Mapping) and part.keys() <= {"required"} and set(part.get("required", ())) <= named.keys()
            for part in parts
        )
    )


def _close(own: dict[str, Any]) -> None:
    if "properties" not in own or "patternProperties" in own or own.get("type", "object") != "object":
        return
    if "additionalProperties" not in own:
        for name in own.get("required", ()):
            own["properties"].setdefault(name, {})
        own["additionalProperties"] = False


def _read_types(own: dict[str, Any], where: str, work: _Pass) -> None:
    """Check the types, and say the one that is implied."""
    kinds = own.get("type")
    if isinstance(kinds, str) and kinds.isupper() and kinds.lower() in _TYPES:  # as Gemini's schemas have it
        kinds = own["type"] = kinds.lower()
    if kinds is not None:
        listed = kinds if isinstance(kinds, list) else [kinds]
        if not listed or any(kind not in _TYPES for kind in listed):
            work.leave_out(own, "type", where, f"{kinds!r} is not a type of JSON")
    elif not any(key in own for key in _UNIONS):
        implied = [kind for kind, keys in _IMPLIED.items() if any(key in own for key in keys)]
        if len(implied) == 1:
            own["type"] = implied[0]
    properties = own.get("properties")
    if properties is not None and not isinstance(properties, Mapping):
        work.leave_out(own, "properties", where, "it isn't a mapping")
    required = own.get("required")
    if required is not None and not isinstance(required, list):
        work.leave_out(own, "required", where, "it isn't a list of names")


def _numbers(own: dict[str, Any], where: str, work: _Pass) -> None:
    for key, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(own.get(key), bool):  # draft 4
            own.update({key: own.pop(limit)} if own.pop(key) and limit in own else {})
    whole = own.get("type") == "integer"
    for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        bound = own.get(key)
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            continue
        low = "inimum" in key
        if whole and abs(bound) > _WIDEST:
            if (bound < 0) == low:  # what is cut away are numbers that nobody writes
                own.pop(key)
                own["minimum" if low else "maximum"] = -_WIDEST if low else _WIDEST
            else:
                work.leave_out(own, key, where, "beyond 64 bits")
        elif not whole and bound and not _NARROW <= abs(bound) <= _WIDE:
            work.leave_out(own, key, where, "too large or small a bound")
    multiple = own.get("multipleOf")
    if isinstance(multiple, (int, float)) and not (multiple > 0 and _written_out(multiple) <= _FINEST):
        work.leave_out(own, "multipleOf", where)


def _written_out(multiple: float) -> float:
    """Return the whole number that the digits of a number make."""
    return float(f"{multiple:.9f}".replace(".", "").strip("0") or 0) if multiple < _FINEST else float(multiple)


def _strings(own: dict[str, Any], where: str, work: _Pass) -> None:
    pattern = own.get("pattern")
    if isinstance(pattern, str):
        holdable = holdable_pattern(pattern)
        if holdable is None:
            work.leave_out(own, "pattern", where, "it looks around or back")
        else:
            own["pattern"] = holdable
    form = own.pop("format", None)
    kinds = own.get("type", "string")
    if not isinstance(form, str) or "string" not in (kinds if isinstance(kinds, list) else [kinds]):
        return
    if form in FORMATS:
        if "pattern" not in own:
            own["pattern"] = f"^(?:{FORMATS[form]})$"
        else:
            work.unheld.append(Unheld(where=where, what=f"format {form} beside a pattern"))
    elif form in NATIVE and "pattern" not in own:
        own["format"] = form


def _keys(own: dict[str, Any], where: str, work: _Pass) -> None:
    """Say which keys a mapping may have by properties and patterns."""
    keys = own.get("propertyNames")
    if keys is None:
        return
    keys = _followed(keys, work.definitions)
    values = own.get("additionalProperties", {})
    plain = "properties" not in own and "patternProperties" not in own
    names = keys.get("enum", [keys["const"]] if "const" in keys else None) if isinstance(keys, Mapping) else None
    if plain and isinstance(names, list) and all(isinstance(name, str) for name in names):
        if len(names) > 1 and len(json.dumps(values)) > 40:
            name = f"values{len(work.more)}"
            while name in work.definitions:
                name += "_"
            work.more[name] = _node(values, f"{where}/additionalProperties", work, may_close=True)
            values = {"$ref": f"#/$defs/{name}"}
        own["properties"] = dict.fromkeys(names, values)
        own["additionalProperties"] = False
        own.pop("propertyNames")
        return
    pattern = None
    if plain and isinstance(keys, Mapping):
        pattern = holdable_pattern(keys["pattern"]) if isinstance(keys.get("pattern"), str) else None
        if keys.get("format") in FORMATS:
            pattern = f"^(?:{FORMATS[keys['format']]})$"
    if pattern is None:
        if keys not in ({}, True, {"type": "string"}):
            work.leave_out(own, "propertyNames", where)
        else:
            own.pop("propertyNames")
        return
    own["patternProperties"], own["additionalProperties"] = {pattern: values}, False
    own.pop("propertyNames")


def _distinct(own: dict[str, Any], where: str, work: _Pass) -> None:
    """Write out every list without repetition where there are few; else bound its length."""
    if not own.get("uniqueItems"):
        own.pop("uniqueItems", None)
        return
    items = _followed(own.get("items"), work.definitions)
    values = items.get("enum", [items["const"]] if "const" in items else None) if isinstance(items, Mapping) else None
    if isinstance(items, Mapping) and items.get("type") == "boolean" and values is None:
        values = [False, True]
    if isinstance(values, list) and "prefixItems" not in own:
        least, most = own.get("minItems", 0), min(own.get("maxItems", len(values)), len(values))
        if len(values) <= _LISTED and least <= most:
            lists = [list(p) for n in range(least, most + 1) for p in itertools.permutations(values, n)]
            own.clear()
            own["enum"] = lists
            return
        own["maxItems"] = most
    work.leave_out(own, "uniqueItems", where)


def _unions(own: dict[str, Any], where: str, work: _Pass) -> None:
    """Read "exactly one of" as "any of"."""
    parts = own.get("oneOf")
    if not isinstance(parts, list):
        return
    if not _told_apart([_followed(part, work.definitions) for part in parts]):
        work.unheld.append(Unheld(where=where, what="oneOf, of which more than one part may hold"))
    own.pop("oneOf")
    if "anyOf" in own:
        own["allOf"] = [*own.get("allOf", ()), {"anyOf": parts}]
    else:
        own["anyOf"] = parts


def _told_apart(parts: list[Any]) -> bool:
    """Whether no value can be of two parts: they are of different types, or have a property that tells them apart."""
    if not all(isinstance(part, Mapping) for part in parts):
        return False
    kinds = [part.get("type") for part in parts]
    if all(isinstance(kind, str) for kind in kinds) and len(set(kinds)) == len(kinds):
        return not {"integer", "number"} <= set(kinds)
    marks: dict[str, list[str]] = {}
    for part in parts:
        for name, value in dict(part.get("properties") or {}).items():
            if (
                name in part.get("required", ())
                and isinstance(value, Mapping)
                and ("const" in value or "enum" in value)
            ):
                for one in value.get("enum", [value.get("const")]):
                    marks.setdefault(name, []).append(json.dumps(one))
    return any(
        len(found) == len(set(found))
        and sum(name in dict(part.get("properties") or {}) for part in parts) == len(parts)
        for name, found in marks.items()
    )


def _followed(schema: Any, definitions: Mapping[str, Any]) -> Any:
    seen = 0
    while isinstance(schema, Mapping) and "$ref" in schema and seen <= len(definitions):
        schema = definitions.get(target_of(schema["$ref"]) or "", {})
        seen += 1
    return schema


def _added_to(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions that other keywords add properties to, so that they may not be closed."""
    found: set[str] = set()
    stack: list[tuple[Any, bool]] = [(schema, False), *((part, False) for part in definitions.values())]
    while stack:
        part, added = stack.pop()
        if isinstance(part, list):
            stack += [(one, added) for one in part]
        if not isinstance(part, Mapping):
            continue
        objects = any(key in part for key in _IMPLIED["object"])
        name = target_of(part.get("$ref"))
        extended = added or objects or "allOf" in part or "anyOf" in part
        if name is not None and name in definitions and name not in found and extended:
            found.add(name)
            stack.append((definitions[name], True))
        for key, value in part.items():
            if key in ("anyOf", "oneOf", "allOf"):
                stack.append((value, added or objects or key == "allOf"))
            elif key in ("properties", "patternProperties") and isinstance(value, Mapping):
                stack += [(one, False) for one in value.values()]
            elif key in ("items", "prefixItems", "additionalProperties"):
                stack.append((value, False))
    return found


def target_of(reference: Any) -> str | None:
    """Return the name of the definition that a hoisted reference leads to."""
    if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
        return None
    return reference[8:].replace("~1", "/").replace("~0", "~")
