"""What pydantic finds wrong with a value, in sentences without its links."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from aisp.errors import ConfigurationError


def explain_invalid(error: ValidationError) -> str:
    """Return one sentence for each value that is wrong."""
    said = []
    for one in complaints(error):
        raised = one.get("ctx", {}).get("error")
        place = ".".join(map(str, one["loc"]))
        said.append(
            str(raised) if isinstance(raised, ConfigurationError) else f"{place} is {one['input']!r}: {one['msg']}"
        )
    return "; ".join(said)


def complaints(error: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's complaints, as one where a field takes several kinds of value and each has its own."""
    merged: dict[Any, dict[str, Any]] = {}
    for one in error.errors(include_url=False):
        loc = one["loc"]
        kind_of_value = len(loc) == 2 and isinstance(loc[1], str) and one["type"] != "extra_forbidden"
        key = loc[:1] if kind_of_value else loc
        if key in merged:
            merged[key]["msg"] += f", or {one['msg'][:1].lower()}{one['msg'][1:]}"
        else:
            merged[key] = {**one, "loc": key}
    return list(merged.values())
