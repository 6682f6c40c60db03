"""References of a JSON schema, all made to lead into `$defs` of its root, so that it can be moved as a whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aisp.engines.bounds import resolve
from aisp.forms.approximation import Unheld, target_of
from aisp.forms.schemas import walk

_ROOT = "whole"
_DYNAMIC = ("$dynamicRef", "$recursiveRef")


def hoist(schema: Any) -> tuple[dict[str, Any] | bool, list[Unheld]]:
    """Return a schema whose references all lead into its `$defs`, and those that lead nowhere, which allow anything.

    "#" means the schema itself wherever it is put later; a reference into another part of it becomes a definition.
    """
    if not isinstance(schema, Mapping):
        return schema if isinstance(schema, bool) else {}, []
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}
    lost: list[Unheld] = []
    base = schema.get("$id") if isinstance(schema.get("$id"), str) else None

    def point(own: dict[str, Any]) -> dict[str, Any]:
        for key in _DYNAMIC:
            if key in own and "$ref" not in own:
                own["$ref"] = own.pop(key)
        reference = own.get("$ref")
        if not isinstance(reference, str):
            return own
        if base and reference.startswith(base):
            reference = reference[len(base) :] or "#"
        try:
            name = named(reference)
        except LookupError as error:
            lost.append(Unheld(where=f"$ref {reference!r}", what=str(error)))
            return {key: value for key, value in own.items() if key != "$ref"}
        return {**own, "$ref": f"#/$defs/{_escaped(name)}"}

    pending: list[tuple[str, Any]] = []

    def named(reference: str) -> str:
        target = resolve(schema, reference)
        if reference not in names:
            wanted = (
                _ROOT if reference in ("#", "#/") else re.sub(r"[^\w.-]+", "_", reference.rpartition("/")[2]) or "part"
            )
            taken = set(names.values())
            while wanted in taken:
                wanted += "_"
            names[reference] = wanted
            pending.append((wanted, target))
        return names[reference]

    own = {key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$id", "$schema")}
    done = walk(own, point)
    while pending:
        name, target = pending.pop()
        if isinstance(target, Mapping):
            target = {
                key: value for key, value in target.items() if key not in ("$defs", "definitions", "$id", "$schema")
            }
        definitions[name] = walk(target, point)
    for name in [name for name in definitions if _circular(name, definitions)]:
        lost.append(Unheld(where=f"$defs/{name}", what="a reference that leads to itself alone"))
        definitions[name] = {}
    if definitions:
        done["$defs"] = definitions
    return done, lost


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _circular(name: str, definitions: Mapping[str, Any]) -> bool:
    seen: set[str] = set()
    at: str | None = name
    while at is not None and at in definitions:
        if at in seen:
            return True
        seen.add(at)
        definition = definitions[at]
        at = target_of(definition.get("$ref")) if isinstance(definition, Mapping) else None
    return False
