"""Candidates as rewards get them: each reward has copies of its own, and equal candidates share a key."""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from aisp.records import Candidate

_ATOMS = frozenset({str, bytes, int, float, complex, bool, type(None)})


def candidate_key(candidate: Candidate) -> str:
    """Return what two candidates must share to be scored alike.

    A candidate that can be written neither as JSON nor by `repr` is equal to no other, and has a new key each time.
    """
    # The ids of tool calls are drawn afresh for every candidate and mean nothing to a reward.
    calls = [{key: value for key, value in call.items() if key != "id"} for call in candidate.tool_calls]
    said = [candidate.text, candidate.reasoning, calls, candidate.invalid_tool_calls, candidate.structure]
    content = [*said, candidate.messages, candidate.reference]
    try:
        written = json.dumps(content, sort_keys=True, default=repr)
    except Exception:  # noqa: BLE001 - keys that JSON doesn't have, deep nesting, a `__repr__` that raises
        try:
            written = repr(content)
        except Exception:  # noqa: BLE001
            return uuid.uuid4().hex
    return hashlib.sha256(written.encode("utf-8", "backslashreplace")).hexdigest()


def unique(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[int]]:
    """Return the distinct candidates, and for each given one its place among them."""
    distinct: list[Candidate] = []
    known: dict[str, int] = {}
    places = []
    for candidate in candidates:
        key = candidate_key(candidate)
        if key not in known:
            known[key] = len(distinct)
            distinct.append(candidate)
        places.append(known[key])
    return distinct, places


def private_copies(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return copies that a reward may write into without anybody else seeing it.

    Mappings, lists and tuples are copied for each candidate. Other objects are deep-copied once for all candidates; one
    that can't be copied (an open file, a lock) is handed over as it is.
    """
    objects: dict[int, Any] = {}
    return [
        replace(
            candidate,
            messages=_copied(candidate.messages, objects),
            tool_calls=_copied(candidate.tool_calls, objects),
            invalid_tool_calls=_copied(candidate.invalid_tool_calls, objects),
            structure=_copied(candidate.structure, objects),
            reference=_copied(candidate.reference, objects),
        )
        for candidate in candidates
    ]


def _copied(value: Any, objects: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict or kind is MappingProxyType:
        return {key: _copied(inner, objects) for key, inner in value.items()}
    if kind is list or kind is tuple:
        return kind(_copied(inner, objects) for inner in value)
    if id(value) not in objects:
        try:
            objects[id(value)] = copy.deepcopy(value)
        except Exception:  # noqa: BLE001 - an object may refuse in any way
            objects[id(value)] = value
    return objects[id(value)]
