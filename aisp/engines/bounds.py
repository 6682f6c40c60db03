"""How large a grammar may be: past these limits llguidance overflows the stack, which ends the process.

llguidance compiles a schema by recursion, some 6 kB of stack a level, references included, and rules of Lark likewise.
So the depth is bounded here, before anything is compiled; sizes are bounded where compiling takes seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from aisp.errors import ConfigurationError

MAX_NESTING = 100
"""Objects and lists within each other; llguidance reads 127."""
MAX_DEPTH = 300
"""Schemas within each other, followed through references; rules of a grammar that lead into each other."""
MAX_PARTS = 50_000
"""Schemas, names and values in all."""
MAX_ENUM = 20_000
MAX_TEXT = 50_000
"""Characters of one name, value or pattern."""
MAX_SOURCE = 2_000_000
"""Characters of a grammar in all."""
MAX_REPEAT = 1_000_000
"""Items, properties or characters that a schema or pattern may ask for at least."""

_JSON = re.compile(r"%json\s*(?=[{\[])")
_COUNTS = ("minItems", "minLength", "minProperties")
_GROUPS = re.compile(r"[(\[{]|[)\]}]|\"(?:\\.|[^\"\\\n])*\"|/(?:\\.|[^/\\\n])+/")


def check_schema(schema: Any, what: str = "the JSON schema") -> None:
    """Raise if a schema is too large or too deep to be compiled. Never recurses itself.

    Args:
        schema: A JSON schema.
        what: How messages call it, as "the tool look".

    Raises:
        ConfigurationError: It is; the message names the limit and the place.
    """
    for parts, (path, value, nesting) in enumerate(_parts(schema), start=1):
        where = f"{what} at {_shown(path)}"
        if nesting > MAX_NESTING:
            raise _too_much(where, "is nested", nesting, MAX_NESTING, "move inner schemas to $defs")
        if parts > MAX_PARTS:
            raise _too_much(what, "has more parts than", parts, MAX_PARTS, "leave parts of it out")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise _too_much(where, "has a text of length", len(value), MAX_TEXT, "shorten it")
        if isinstance(value, Mapping):
            _check_counts(value, where)
    _check_depth(schema, what)


def check_source(source: str) -> None:
    """Raise if a grammar is too large or too deep to be compiled.

    Args:
        source: Lark, as llguidance reads it, with JSON schemas in it.

    Raises:
        ConfigurationError: It is; the message names the limit.
    """
    if len(source) > MAX_SOURCE:
        raise _too_much("the grammar", "has more characters than", len(source), MAX_SOURCE, "shorten it")
    rest = []
    at = 0
    for found in _JSON.finditer(source):
        if found.start() < at:
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(source, found.end())
        except RecursionError:
            raise _too_much(
                "a JSON schema of the grammar", "is nested more than", MAX_NESTING + 1, MAX_NESTING, "flatten it"
            ) from None
        except ValueError:  # llguidance says where
            continue
        check_schema(schema)
        rest.append(source[at : found.start()])
        at = end
    rest.append(source[at:])
    _check_lark("".join(rest))


def _check_counts(schema: Mapping[str, Any], where: str) -> None:
    enum = schema.get("enum")
    if isinstance(enum, (list, tuple)) and len(enum) > MAX_ENUM:
        raise _too_much(where, "has more values in its enum than", len(enum), MAX_ENUM, "use a pattern")
    for key in _COUNTS:
        least = schema.get(key)
        if isinstance(least, (int, float)) and least > MAX_REPEAT:
            raise _too_much(where, f"has a {key} of", int(min(least, 1e18)), MAX_REPEAT, "lower it")


def _check_lark(source: str) -> None:
    """Bound the nesting of brackets, and the length of the longest chain of rules."""
    nesting = 0
    for found in _GROUPS.finditer(source):
        part = found[0]
        if part[0] == "/" and _nested(part) > MAX_DEPTH:
            raise _too_much("a pattern of the grammar", "is nested", _nested(part), MAX_DEPTH, "take out brackets")
        if len(part) == 1:
            nesting += 1 if part in "([{" else -1
            if nesting > MAX_DEPTH:
                raise _too_much("the grammar", "is nested", nesting, MAX_DEPTH, "move inner parts to rules")
    rules = {}
    for line in re.split(r"\n(?=[?!]?\w+(?:\[[^\]\n]*\])?\s*(?:\.-?\d+)?\s*:)", "\n" + source):
        name, colon, body = line.strip().partition(":")
        if colon:
            rules[re.split(r"[\[.\s]", name.lstrip("?!"))[0]] = body
    uses = {
        name: [word for word in re.findall(r"\w+", re.sub(r"\"(?:\\.|[^\"\\\n])*\"", " ", body)) if word in rules]
        for name, body in rules.items()
    }
    depth = _longest(uses)
    if depth > MAX_DEPTH:
        raise _too_much("the grammar", "has rules that lead into each other", depth, MAX_DEPTH, "put rules together")


def _check_depth(schema: Any, what: str) -> None:
    """Bound how deep schemas lie within each other when references are followed, each once."""
    if not isinstance(schema, Mapping):
        return
    uses: dict[str, list[str]] = {}
    own: dict[str, int] = {}
    for root, part in _targets(schema).items():
        uses[root], own[root] = [], 0
        for path, value, nesting in _parts(part, stop_at_definitions=True):
            own[root] = max(own[root], nesting)
            if path and path[-1] == "$ref" and isinstance(value, str):
                uses[root].append(value)
    longest, place = _heaviest(uses, own)
    if longest > MAX_DEPTH:
        raise _too_much(
            f"{what} at {place}", "leads on through references", longest, MAX_DEPTH, "shorten the chain of $refs"
        )


def _targets(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what references lead to, by reference; the root is "#"."""
    found: dict[str, Any] = {"#": schema}
    for path, value, _ in _parts(schema):
        if path and path[-1] == "$ref" and isinstance(value, str) and value not in found:
            try:
                found[value] = resolve(schema, value)
            except LookupError:
                continue
    return found


def resolve(schema: Any, reference: str) -> Any:
    """Return what a reference within a schema leads to: "#", a JSON pointer behind it, an anchor, or an `$id`.

    Raises:
        LookupError: There is nothing there.
    """
    base, _, rest = reference.partition("#")
    if base:
        for _, value, _ in _parts(schema):
            if isinstance(value, Mapping) and value.get("$id") == base:
                return resolve(value, f"#{rest}")
        raise LookupError(f"{reference} is outside the schema")
    pointer = reference[1:]
    if pointer and not pointer.startswith("/"):
        for _, value, _ in _parts(schema):
            if isinstance(value, Mapping) and pointer in (value.get("$anchor"), value.get("$dynamicAnchor")):
                return value
        raise LookupError(f"no schema has the anchor {pointer}")
    at = schema
    for step in pointer.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        try:
            at = at[int(name)] if isinstance(at, list) else at[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise LookupError(f"{reference} leads nowhere") from None
    return at


def _parts(schema: Any, *, stop_at_definitions: bool = False) -> Iterator[tuple[tuple[Any, ...], Any, int]]:
    """Yield every value of a schema with its path and how deep it lies, without recursion."""
    stack: list[tuple[tuple[Any, ...], Any, int]] = [((), schema, 0)]
    while stack:
        path, value, nesting = stack.pop()
        yield path, value, nesting
        if nesting > MAX_NESTING:
            continue
        if isinstance(value, Mapping):
            stack += [
                ((*path, key), inner, nesting + 1)
                for key, inner in value.items()
                if not (stop_at_definitions and key in ("$defs", "definitions"))
            ]
        elif isinstance(value, (list, tuple)):
            stack += [((*path, index), inner, nesting + 1) for index, inner in enumerate(value)]


def _heaviest(uses: Mapping[str, list[str]], own: Mapping[str, int]) -> tuple[int, str]:
    """Return the largest sum of depths along a chain of references, and where it ends."""
    order, component = _components(uses)
    # Whatever order the compiler takes, it goes through each member of a circle once at most.
    members: dict[int, list[str]] = {}
    for name, number in component.items():
        members.setdefault(number, []).append(name)
    weight = {number: sum(max(1, own[name] // 2) for name in names) for number, names in members.items()}
    total: dict[int, int] = {}
    worst, place = 0, "#"
    for number in order:
        after = {component[t] for name in members[number] for t in uses[name] if t in component} - {number}
        total[number] = weight[number] + max((total[other] for other in after), default=0)
        if total[number] > worst:
            worst, place = total[number], members[number][0]
    return worst, place


def _longest(uses: Mapping[str, list[str]]) -> int:
    return _heaviest(uses, dict.fromkeys(uses, 0))[0] if uses else 0


def _components(uses: Mapping[str, list[str]]) -> tuple[list[int], dict[str, int]]:
    """Return the strongly connected components, what is used before what uses it (Tarjan, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    component: dict[str, int] = {}
    order: list[int] = []
    open_: list[str] = []
    for start in uses:
        if start in index:
            continue
        work = [(start, iter(uses[start]))]
        index[start] = low[start] = len(index)
        open_.append(start)
        while work:
            name, rest = work[-1]
            child = next((c for c in rest if c in uses), None)
            if child is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    order.append(len(order))
                    while name not in component:
                        component[open_.pop()] = order[-1]
            elif child not in index:
                index[child] = low[child] = len(index)
                open_.append(child)
                work.append((child, iter(uses[child])))
            elif child not in component:
                low[name] = min(low[name], index[child])
    return order, component


def _nested(pattern: str) -> int:
    depth = most = 0
    for token in re.findall(r"\\.|[()]", pattern):
        depth += {"(": 1, ")": -1}.get(token, 0)
        most = max(most, depth)
    return most


def _shown(path: tuple[Any, ...]) -> str:
    text = "/".join(str(step) for step in path)
    return "#/" + (text if len(text) <= 80 else f"{text[:40]}...{text[-37:]}")


def _too_much(what: str, how: str, got: int, limit: int, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{what} {how} {got:,}; the limit is {limit:,}: {remedy}")
