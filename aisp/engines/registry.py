"""From what a user names to an engine: an object, a model, or "kind:rest" of a kind that is built in or installed.

    engine_for(engine) -> that engine                  engine_for("transformers:NAME") -> as engine_for("NAME")
    engine_for("NAME" | loaded model | (model, tokenizer)) -> the engine in this process
    engine_for("KIND:REST") -> what the entry point KIND of the group "aisp.engines" makes of REST
    engine_for("module:Class") or ("module:Class:REST") -> what that class or function makes of it

Importing this loads neither torch nor transformers: the engine in this process is found by name when it is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import threading
import weakref
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisp import models
from aisp.engines.base import Engine
from aisp.errors import ConfigurationError
from aisp.models import LoadedModel

if TYPE_CHECKING:
    import torch

GROUP = "aisp.engines"
"""The entry-point group under which an installed package registers kinds: functions of REST that return an engine."""

_IN_PROCESS = "transformers"
_IN_PROCESS_ENGINE = "aisp.engines.transformers.engine:TransformersEngine"
_KIND = re.compile(r"([A-Za-z][\w.-]+):(.*)", re.DOTALL)  # two letters at least, since "C:" begins a path
_PLACE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)(?::(.*))?", re.DOTALL)

_lock = threading.Lock()
_engines: weakref.WeakKeyDictionary[LoadedModel, Engine] = weakref.WeakKeyDictionary()
_left_behind: list[weakref.WeakKeyDictionary[LoadedModel, Engine]] = []
_by_objects: weakref.WeakValueDictionary[tuple[int, int, tuple[int, ...]], Engine] = weakref.WeakValueDictionary()


def engine_for(
    model: Engine | LoadedModel | tuple[Any, Any] | str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Engine:
    """Return an engine.

    A loaded model has one engine, shared by all who ask, so that their requests share a batch; so has a model that is
    given beside its tokenizer, as long as somebody holds the engine.

    Args:
        model: An engine, which is returned as it is; a loaded model; a transformers model and its tokenizer; a model's
            name, as `aisp.models.load` takes it; or "kind:rest", as the module says.
        dtype: Of the weights, where a name leads to them. None chooses for the device.
        device: Where they go. None takes CUDA, else MPS, else the CPU.
        **options: For `aisp.models.load` where a name leads to a model, else for the kind's function.

    Raises:
        ConfigurationError: A kind that is not known, or settings that contradict each other.
        ModelNotFoundError: The name leads to no model.
        UnsupportedModelError: The model can't be split at its head, or its cache can't be decoded from.

    Example:
        >>> from aisp.testing import tiny_loaded_model
        >>> loaded = tiny_loaded_model()
        >>> engine_for(loaded) is engine_for(loaded)
        True
    """
    options |= {key: value for key, value in (("dtype", dtype), ("device", device)) if value is not None}
    if isinstance(model, Engine):
        if options:
            raise ConfigurationError(f"an engine is used as it is, and {', '.join(sorted(options))} was given as well")
        return model
    if isinstance(model, tuple):
        if len(model) != 2:
            raise ConfigurationError(f"model is a tuple of {len(model)}; expected a model and its tokenizer")
        return _in_process(models.load(model[0], tokenizer=model[1], **options))
    if isinstance(model, str) and (found := _KIND.fullmatch(model)) and not Path(model).exists():
        kind, rest = found.groups()
        if kind != _IN_PROCESS:
            return _of_kind(model, kind, rest, options)
        model = rest
    return _in_process(models.load(model, **options))


def _in_process(loaded: LoadedModel) -> Engine:
    """Return the engine of a loaded model, made unless its model and tokenizer have one."""
    with _lock:
        engine = _engines.get(loaded)
        if engine is None:
            # The engine holds both objects, so that while it is here their ids are theirs.
            key = (id(loaded.model), id(loaded.tokenizer), loaded.eos_token_ids)
            engine = _by_objects.get(key)
            if engine is None:
                engine = _import(_IN_PROCESS_ENGINE)(loaded.model, loaded.codec)
                _by_objects[key] = engine
            _engines[loaded] = engine
        return engine


def _of_kind(name: str, kind: str, rest: str, options: dict[str, Any]) -> Engine:
    """Return what an installed kind makes of the rest, or what a place in a module does."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if kind in installed:
        return _made(name, installed[kind].load(), [rest], options)
    place = _PLACE.fullmatch(name)
    if place is None or not _exists(place[1]):
        known = ", ".join(f"{one}:" for one in sorted({_IN_PROCESS, *installed}))
        raise ConfigurationError(
            f"{name!r} names no engine: {kind!r} is not a kind that is known ({known}) and no module of that name is "
            'found. Give a model\'s name, one of these kinds, "module:Class", or install the package that has it'
        )
    try:
        made = _import(f"{place[1]}:{place[2]}")
    except AttributeError as error:
        raise ConfigurationError(f"{name!r} names no engine: {error}") from error
    return _made(name, made, [] if place[3] is None else [place[3]], options)


def _made(name: str, make: Callable[..., Any], arguments: list[str], options: dict[str, Any]) -> Engine:
    engine = make(*arguments, **options)
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"{name!r} made a {type(engine).__name__}; expected an aisp.engines.Engine")
    return engine


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _start_afresh() -> None:
    """Build new engines in a process that was forked off: the thread that drives an old one did not come along."""
    global _by_objects, _engines, _lock
    _left_behind.append(_engines)  # closing one might wait for that thread
    _engines, _by_objects, _lock = weakref.WeakKeyDictionary(), weakref.WeakValueDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
