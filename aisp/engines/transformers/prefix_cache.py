"""Keys and values of everything that was run lately, by token sequence: a radix tree with a bound on its memory.

Prompts and responses live in the same tree. A prompt finds what it shares with earlier ones (a conversation's next
turn, an agent's history), a kept prefix finds the response that it was cut from. What is missing is computed again
and gives the same tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from aisp.engines.transformers.attention import KV


@dataclass(slots=True, eq=False)
class _Node:
    tokens: tuple[int, ...]
    kv: KV
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixCache:
    """A radix tree from token sequences to keys and values.

    Args:
        max_bytes: Memory for keys and values; the leaves that were used least lately go first. 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._clock = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._root = _Node(tokens=(), kv=[], parent=None)
        self.bytes = 0
        self.whole = True
        """Whether the last `insert` came to its end; what one left half done is cleared before it is used again."""

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values it holds."""
        return sum(len(node.tokens) for node in self._nodes())

    def match(self, tokens: Sequence[int], start: int = 0) -> tuple[int, KV | None]:
        """Return how many leading tokens are known, and their keys and values from `start` on (None: none)."""
        if not self.whole:
            self.clear()
        length, parts, node = 0, [], self._root
        while (found := node.children.get(tokens[length]) if length < len(tokens) else None) is not None:
            common = _common(found.tokens, tokens, length)
            found.used = next(self._clock)
            skip = max(start - length, 0)
            if skip < common:
                parts.append([(keys[:, skip:common], values[:, skip:common]) for keys, values in found.kv])
            length += common
            if common < len(found.tokens):
                break
            node = found
        return length, _concatenated(parts)

    def insert(self, tokens: Sequence[int], kv: KV, start: int = 0) -> None:
        """Remember a sequence.

        Args:
            tokens: The whole sequence.
            kv: Keys and values of its tokens from `start` on, kept as they are: the caller doesn't write to them again.
            start: Where they begin. If the cache has lost what comes before, nothing is remembered.
        """
        if not self.whole:
            self.clear()
        self.whole = False
        self._insert(tokens, kv, start)
        self.whole = True

    def _insert(self, tokens: Sequence[int], kv: KV, start: int) -> None:
        node, length = self._root, 0
        while length < len(tokens) and (found := node.children.get(tokens[length])) is not None:
            common = _common(found.tokens, tokens, length)
            found.used = next(self._clock)
            length += common
            if common < len(found.tokens):
                node = self._split(found, common)
                break
            node = found
        if length < start or length == len(tokens):
            return
        if length > start:  # a slice would keep the whole of its storage alive
            kv = [(keys[:, length - start :].clone(), values[:, length - start :].clone()) for keys, values in kv]
        leaf = _Node(tokens=tuple(tokens[length:]), kv=kv, parent=node, used=next(self._clock))
        node.children[leaf.tokens[0]] = leaf
        self.bytes += _size(kv)
        self._evict()

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut a node in two; return the upper part."""
        upper = _Node(
            tokens=node.tokens[:at],
            kv=[(keys[:, :at].clone(), values[:, :at].clone()) for keys, values in node.kv],
            parent=node.parent,
            used=node.used,
        )
        if node.parent is not None:
            node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[at:], upper
        node.kv = [(keys[:, at:].clone(), values[:, at:].clone()) for keys, values in node.kv]
        upper.children[node.tokens[0]] = node
        return upper

    def _evict(self) -> None:
        while self.bytes > self.max_bytes:
            leaf = min((node for node in self._nodes() if not node.children), key=lambda node: node.used)
            if leaf.parent is not None:
                del leaf.parent.children[leaf.tokens[0]]
            self.bytes -= _size(leaf.kv)

    def _nodes(self) -> list[_Node]:
        nodes, stack = [], list(self._root.children.values())
        while stack:
            node = stack.pop()
            nodes.append(node)
            stack.extend(node.children.values())
        return nodes


def _common(run: Sequence[int], tokens: Sequence[int], offset: int) -> int:
    """Return how many tokens of a run equal those from an offset on."""
    limit = min(len(run), len(tokens) - offset)
    return next((i for i in range(limit) if run[i] != tokens[offset + i]), limit)


def _concatenated(parts: Sequence[KV]) -> KV | None:
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    return [
        (torch.cat([keys for keys, _ in layer], dim=1), torch.cat([values for _, values in layer], dim=1))
        for layer in zip(*parts, strict=True)
    ]


def _size(kv: KV) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in kv)
