"""A stand-in for CUDA graphs that runs on the CPU and is as unforgiving.

A graph keeps the addresses of what it read and not the tensors, so that here a capture is a tape of the operations that
ran, which knows what came from outside by its memory alone. A replay does the tape again: memory that is gone by then
is an error where CUDA would read what lies there now. A pool whose graphs are all gone can't be captured into.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class FreedMemoryError(Exception):
    """A replay would read memory that nobody holds any more."""


class _Outside:
    """A tensor that was read and not made by a capture: where it lies."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._form = (tensor.storage_offset(), tensor.size(), tensor.stride())
        self._dtype = tensor.dtype

    def __call__(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None:
            raise FreedMemoryError(f"a {self._dtype} of shape {tuple(self._form[1])}")
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._form)


class _Made:
    """A tensor that a capture made: its place on the tape."""

    def __init__(self, place: int) -> None:
        self.place = place


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, Any, Any, Any]] = []
        self.made: list[Tensor] = []  # kept, so that no other tensor takes over one's identity
        self._places: dict[int, int] = {}

    def reference(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        place = self._places.get(id(value))
        return _Outside(value) if place is None else _Made(place)

    def _name(self, value: Any, args: Any) -> Any:
        if not isinstance(value, Tensor) or any(value is given for given in args if isinstance(given, Tensor)):
            return None
        self._places[id(value)] = len(self.made)
        self.made.append(value)
        return _Made(len(self.made) - 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = tree_map(self.reference, args), tree_map(self.reference, kwargs or {})
        out = func(*args, **(kwargs or {}))
        self.tape.append((func, *given, tree_map(lambda value: self._name(value, args), out)))
        return out


class Graph:
    """What was captured, to be done again."""

    def __init__(self, recorder: _Recorder, out: Tensor) -> None:
        self._tape, self._count = recorder.tape, len(recorder.made)
        self._result = recorder.reference(out)
        self._out = out.clone()

    def __call__(self) -> Tensor:
        made: list[Tensor | None] = [None] * self._count

        def find(value: Any) -> Any:
            return made[value.place] if isinstance(value, _Made) else value() if isinstance(value, _Outside) else value

        for func, args, kwargs, names in self._tape:
            got = func(*tree_map(find, args), **tree_map(find, kwargs))
            for name, value in zip(*map(_flat, (names, got)), strict=True):
                if isinstance(name, _Made):
                    made[name.place] = value
        return self._out.copy_(find(self._result))


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


class Pool:
    """Memory of one generation of graphs."""

    def __init__(self) -> None:
        self.graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self.used = False


class TapeGraphs:
    """The stand-in. `pools` are those that were handed out, `failing` errors that the next captures raise."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []
        self.failing: list[Exception] = []
        self.captures: list[int] = []

    def new_pool(self) -> Pool:
        self.pools.append(Pool())
        return self.pools[-1]

    def capture(self, run: Callable[[], Tensor], pool: Pool) -> Callable[[], Tensor]:
        if pool.used and not pool.graphs:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        pool.used = True
        run()
        recorder = _Recorder()
        with recorder:
            out = run()
        self.captures.append(len(out))
        if self.failing:
            raise self.failing.pop(0)
        graph = Graph(recorder, out)
        pool.graphs.add(graph)
        return graph
