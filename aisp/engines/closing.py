"""How to end what a grammar has begun: a short way from a state of it to an accepting one.

llguidance knows what may follow, not what ends it soonest. So the grammar itself is searched, breadth first: forced
tokens are taken, brackets are closed as soon as that is possible, and everywhere else a few tokens of every kind are
tried (a letter, a digit, each sign, the longest words). States that allow the same tokens count as one, and the way
that was found from a state is remembered, so that most looks cost one mask a token.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LONGEST = 4096
_TRIED = 2_000  # states that are looked at for one way, before it counts as not found
_TRIED_MIDWAY = 600  # while a response is being written: a look is taken every few tokens
_TRIED_OFTEN = 20_000  # in all for one grammar midway, from where on a look may try little
_A_KIND = 4  # tokens of a kind that are tried where a state allows more of them
_REMEMBERED = 5_000
_OFTEN = 64  # times that a way may come back to one state before it is searched for anew
_ANEW = (1, 8, 64, 512)  # times at one state at which a way that only counts is searched for anew
_VISITS = 2  # ways to one state that a search follows: states that allow the same tokens aren't always the same
_BRACKETS = re.compile(r"[}\]]+\n?")
_QUOTES = re.compile(r"\"[}\]]*\n?")
_EMPTY = re.compile(r"(\[\]|\{\}|\"\")[}\]]*\n?")
_SIGNS = r"[^\w\s]"
_ALONE = -1
_KINDS = (r"[a-f]", r"[g-z]", r"[A-F]", r"[G-Z]", r"[0-9]", r"\s", _SIGNS, r".")

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(slots=True)
class _Node:
    """A state that a search came to: by which tokens, and from where."""

    state: Any
    parent: _Node | None
    tokens: list[int]
    cost: int = 0
    depth: int = 0
    key: int = 0
    complete: bool = False

    def way(self) -> list[int]:
        """Return the tokens from the search's beginning to here."""
        steps: list[list[int]] = []
        node: _Node | None = self
        while node is not None:
            steps.append(node.tokens)
            node = node.parent
        return [token for step in reversed(steps) for token in step]


class Ways:
    """What is known of the ways to the end of one grammar. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: OrderedDict[int, int] = OrderedDict()
        """The first token of a way from a state."""
        self.counting: OrderedDict[int, int] = OrderedDict()
        """A token that comes back to the same state, and may count."""
        self.tried = 0
        self.hopeless: OrderedDict[int, int] = OrderedDict()
        """States from which no way was found."""

    def keep(self, memory: OrderedDict[int, int], key: int, token: int) -> None:
        with self._lock:
            memory[key] = token
            while len(memory) > _REMEMBERED:
                memory.popitem(last=False)


@dataclass(slots=True)
class _Budget:
    """States that may still be looked at."""

    left: int


class Closer:
    """Finds ways to the end for a tokenizer. Thread-safe.

    Args:
        tokenizer: A fast transformers tokenizer.
        eos_token_ids: Tokens that end a response.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._size = max(vocabulary.values()) + 1
        self._eos = [token for token in eos_token_ids if token < self._size]
        plain = {token: _plain(text) for text, token in vocabulary.items()}
        self._lengths = np.zeros(self._size, dtype=np.int64)
        for token, text in plain.items():
            self._lengths[token] = len(text)
        self._brackets = _ranked(plain, _BRACKETS)
        self._quotes = _ranked(plain, _QUOTES)
        self._empty = _ranked(plain, _EMPTY)
        self._kinds = _by_kind(plain)
        self._letter = next((token for token, text in plain.items() if text == "a"), None)
        self._probes = [token for text in "a0" for token, plain_text in plain.items() if plain_text == text]
        self._comma = [token for token, text in plain.items() if text == ","]

    def path(self, state: Any, ways: Ways, *, midway: bool = False) -> list[int] | None:
        """Return tokens that lead from a state to an accepting one; None if they were not found.

        Args:
            state: llguidance's matcher, which stays as it is.
            ways: What is known of its grammar, which is added to.
            midway: Whether a response waits for it, so that less may be tried.
        """
        if state.is_accepting():
            return []
        here = state.deep_copy()
        taken: list[int] = []
        seen: dict[int, int] = {}
        budget = _Budget(_TRIED if not midway else _TRIED_MIDWAY if ways.tried < _TRIED_OFTEN else _TRIED_MIDWAY // 8)
        while len(taken) < _LONGEST:
            if _take_forced(here, taken):
                return taken
            allowed, key = self._look(here)
            if key in ways.hopeless:
                return None
            seen[key] = seen.get(key, 0) + 1
            token = ways.first.get(key) if seen[key] <= _OFTEN else None
            if token is None and seen[key] not in _ANEW:
                token = ways.counting.get(key)
            if token is None or not allowed[token]:
                before = budget.left
                found = self._search(here, budget, ways)
                ways.tried += (before - budget.left) * midway
                if found is None:
                    if not midway:
                        ways.keep(ways.hopeless, key, 0)
                    return None
                step, complete = found
                taken += step
                if complete:
                    return taken
                if not here.consume_tokens(step):
                    return None
                continue
            if not here.consume_token(token):
                return None
            taken.append(token)
            if here.is_accepting():
                return taken
        return None

    def _search(self, state: Any, budget: _Budget, ways: Ways) -> tuple[list[int], bool] | None:
        """Return a way to an accepting state, or where only counting leads on, the longest step of it.

        Returns:
            Tokens, and whether they lead to the end. None where nothing does.
        """
        root = _Node(state.deep_copy(), None, [])
        _, root.key = self._look(root.state)
        heap, seen, loops, order = [(0, 0, root)], {root.key: 1}, list[_Node](), itertools.count(1)
        while heap and budget.left > 0:
            _, _, node = heapq.heappop(heap)
            if node.complete:
                _remember(node, ways)
                return node.way(), True
            allowed, _ = self._look(node.state)
            beside: set[tuple[int, int]] = set()
            for token, kind in self._choices(node.state, allowed):
                budget.left -= 1
                child = self._child(node, token)
                if child is None:
                    continue
                if not child.complete:
                    _, child.key = self._look(child.state)
                    if child.key == node.key or seen.get(child.key, 0) >= _VISITS or (child.key, kind) in beside:
                        loops.append(child)
                        continue
                    if kind != _ALONE:  # letters that lead to the same are the same
                        beside.add((child.key, kind))
                    seen[child.key] = seen.get(child.key, 0) + 1
                heapq.heappush(heap, (child.cost, next(order), child))
        if not loops or budget.left <= 0:
            return None
        # The same tokens are allowed behind it, and yet it may count: of a least length, say.
        step = max(loops, key=lambda node: (self._lengths[node.tokens].sum() / len(node.tokens), node.depth))
        ways.keep(ways.counting, step.parent.key if step.parent else 0, step.tokens[0])
        return step.way(), False

    def _child(self, node: _Node, token: int) -> _Node | None:
        """Return the state behind a token and what is forced by it; None where that leads nowhere."""
        child = _Node(node.state.deep_copy(), node, [token])
        if not child.state.consume_token(token):
            return None
        child.complete = bool(child.state.is_accepting()) or _take_forced(child.state, child.tokens)
        child.cost, child.depth = node.cost + len(child.tokens), node.depth + 1
        return child if child.complete or not child.state.is_stopped() else None

    def _look(self, state: Any) -> tuple[BoolArray, int]:
        """Return which tokens a state allows, and a key that states with the same future share, as far as is seen.

        Which tokens may follow is not enough to tell states apart: behind the "@" and behind the "." of an address any
        letter may. What may follow two letters is.
        """
        mask = state.compute_bitmask()
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[: self._size].astype(bool)
        bits[self._eos] = False
        marks = [hash(mask)]
        probe = next((token for token in self._probes if bits[token]), None)
        if probe is not None:
            after = state.deep_copy()
            for _ in range(2):
                if not after.consume_token(probe):
                    break
                marks.append(hash(after.compute_bitmask()))
        return bits, hash(tuple(marks))

    def _choices(self, state: Any, allowed: BoolArray) -> Iterator[tuple[int, int]]:
        """Yield the tokens to try with their kind: one where brackets can be closed, else some of every kind."""
        if self._letter is None or not allowed[self._letter]:  # outside of free text
            brackets = self._brackets[allowed[self._brackets]]
            if len(brackets):
                yield int(brackets[0]), _ALONE
                return
            if any(allowed[token] for token in self._comma):
                yield next(token for token in self._comma if allowed[token]), _ALONE
                return
        else:
            quotes = self._quotes[allowed[self._quotes]]
            if len(quotes) and self._leaves(state, int(quotes[0])):
                yield int(quotes[0]), _ALONE
                return
        yield from ((int(token), _ALONE) for token in self._empty[allowed[self._empty]][:2])
        found = 0
        for number, tokens in enumerate(self._kinds):
            some = tokens[allowed[tokens]]
            found += len(some)
            if _KINDS[number] == _SIGNS:
                yield from ((int(token), _ALONE) for token in some)
            else:
                yield from ((int(token), number) for token in some[:_A_KIND])
        lengths = np.where(allowed, self._lengths, 0)
        for token in np.argpartition(lengths, -4)[-4:] if len(lengths) >= 4 else ():
            if lengths[token] > 1:
                yield int(token), len(_KINDS)
        if not found:
            yield from ((int(token), _ALONE) for token in np.flatnonzero(allowed)[:_A_KIND])

    def _leaves(self, state: Any, quote: int) -> bool:
        """Return whether a quote ends the string that a state is in, rather than being a part of a text."""
        after = state.deep_copy()
        if not after.consume_token(quote):
            return False
        if after.is_accepting() or after.is_stopped() or after.compute_ff_tokens():
            return True
        allowed, _ = self._look(after)
        return self._letter is None or not allowed[self._letter]


def _remember(node: _Node, ways: Ways) -> None:
    """Keep the first token from every state along a way."""
    at = node
    while at.parent is not None:
        ways.keep(ways.first, at.parent.key, at.tokens[0])
        at = at.parent


def _take_forced(state: Any, taken: list[int]) -> bool:
    """Consume what must follow, noting it; return whether the end is reached."""
    while forced := state.compute_ff_tokens():
        for token in forced:
            if not state.consume_token(token):
                return False
            taken.append(token)
            if state.is_accepting():
                return True
    return False


def _plain(text: str) -> str:
    """Return a token's text: byte-level tokenizers write white space by other characters, others the space."""
    return text.replace("\u010a", "\n").replace("\u0120", " ").replace("\u2581", " ")


def _ranked(plain: dict[int, str], pattern: re.Pattern[str]) -> IntArray:
    """Return the tokens of a pattern, longer ones first."""
    found = [(-len(text), token) for token, text in plain.items() if pattern.fullmatch(text)]
    return np.array([token for _, token in sorted(found)], dtype=np.int64)


def _by_kind(plain: dict[int, str]) -> list[IntArray]:
    """Return the tokens of one character by its kind; bytes that aren't one are the last kind."""
    kinds = [re.compile(kind, re.DOTALL) for kind in _KINDS]
    found: list[list[int]] = [[] for _ in kinds]
    for token, text in sorted(plain.items(), key=lambda item: item[1]):
        if re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            found[-1].append(token)
        elif len(text) == 1:
            found[next(i for i, kind in enumerate(kinds) if kind.fullmatch(text))].append(token)
    return [np.array(tokens, dtype=np.int64) for tokens in found]
