"""What rewards return, read as numbers. The one place that says what a number is.

Ints, floats, bools, decimals, fractions, and scalars or arrays of one element of numpy, torch and their kin are numbers
where they are finite. Text, complex numbers, None, NaN, infinities, and what is too large for a float are not.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Set
from decimal import Decimal
from typing import Any

from aisp.records import Score

_SHOWN = 60


class VerdictError(ValueError):
    """Says in words what a reward returned in place of finite numbers."""


def as_number(value: Any) -> float | None:
    """Return a finite real number as a float; None where it isn't one."""
    if not isinstance(value, numbers.Real | Decimal):
        value = _element(value)
    if not isinstance(value, numbers.Real | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError, TypeError):  # 10**400, a signalling NaN
        return None
    return number if math.isfinite(number) else None


def as_score(verdict: Any, name: str) -> Score:
    """Return a verdict as a score of plain floats.

    Args:
        verdict: A number or a `Score`.
        name: Of the one part that a verdict without parts is given.

    Raises:
        VerdictError: Neither of them, or a score that holds something else than finite numbers.
    """
    if not isinstance(verdict, Score):
        number = _finite(verdict, "")
        return Score(value=number, parts={name: number})
    comment = None if verdict.comment is None else str(verdict.comment)
    if not isinstance(verdict.parts, Mapping | None):
        raise VerdictError(f"a score whose parts are {shown(verdict.parts)}; expected a mapping of names to numbers")
    parts = {_part_name(part): _finite(value, f"a score whose part {part!r} is ") for part, value in
             (verdict.parts or {}).items()}  # fmt: skip
    if verdict.error is not None:
        return Score(
            value=math.nan, parts=parts, comment=comment, vetoed=_flag(verdict.vetoed), error=str(verdict.error)
        )
    value, vetoed = _finite(verdict.value, "a score of "), _flag(verdict.vetoed)
    return Score(value=value, parts=parts if parts or vetoed else {name: value}, comment=comment, vetoed=vetoed)


def as_list(verdicts: Any, count: int) -> list[Any]:
    """Return the verdicts on some candidates as a list.

    Raises:
        VerdictError: Something else than one verdict a candidate, in order.
    """
    try:
        ordered = not isinstance(verdicts, str | bytes | Mapping | Set) and len(verdicts) >= 0
        found = list(verdicts) if ordered else None
    except TypeError:  # no length, or a tensor of no dimensions, which says so only when it is asked
        found = None
    if found is None or len(found) != count:
        got = f"a {type(verdicts).__name__}" if found is None else f"{len(found)} verdicts"
        raise VerdictError(f"{got} for {count} candidates; expected one verdict a candidate, in a list")
    return found


def shown(value: Any) -> str:
    """Return a value as an error message shows it: short, and never with an error of its own."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of more digits than Python writes out, a `__repr__` that raises
        text = f"a value of type {type(value).__name__} that can't be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _finite(value: Any, what: str) -> float:
    number = as_number(value)
    if number is None:
        raise VerdictError(f"{what}{shown(value)}, where a finite number was expected")
    return number


def _element(value: Any) -> Any:
    """Return the one element of an array or tensor; None where there is no such thing."""
    item = getattr(value, "item", None)
    if isinstance(value, type) or not callable(item):
        return None
    try:
        return item()
    except Exception:  # noqa: BLE001 - more elements than one, or none; each library has an error of its own
        return None


def _flag(value: Any) -> bool:
    try:
        return bool(value)
    except Exception as error:
        raise VerdictError(f"a score whose vetoed is {shown(value)}, where True or False was expected") from error


def _part_name(name: Any) -> str:
    if not isinstance(name, str):
        raise VerdictError(f"a score with a part called {shown(name)}; expected text as its name")
    return name
