"""Loads models, once a process: whoever asks for the same again gets the same object.

LangChain rebuilds a chat model whenever one of its fields is configured, and several may name one model. One lock
serialises loading, since building a transformers model goes through state of the whole process; a model that is there
already is handed out without it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aisp.errors import ConfigurationError, ModelNotFoundError
from aisp.models import checkpoint, embedded, gguf
from aisp.models.devices import resolve_device, resolve_dtype
from aisp.models.loaded import LoadedModel, wrap

if TYPE_CHECKING:
    import torch


class _Source(NamedTuple):
    """What a name leads to; `folder` makes it a checkpoint folder."""

    key: str
    folder: Callable[[], Path]


_lock = threading.RLock()
_models: dict[tuple[Any, ...], Any] = {}
_loaded: dict[tuple[Any, ...], LoadedModel] = {}
_given: weakref.WeakValueDictionary[tuple[int, int], LoadedModel] = weakref.WeakValueDictionary()


def load(
    model: str | os.PathLike[str] | LoadedModel | Any,
    *,
    tokenizer: str | os.PathLike[str] | Any | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Return a model with its tokenizer, loading it unless this process has it already. Thread-safe.

    Args:
        model: An embedded model's name (`EMBEDDED`), a checkpoint folder, a GGUF file, a hub id ("owner/name", which is
            downloaded where it is not cached; nothing else is), or a transformers model. A model given as an object
            stays as it is and needs its tokenizer beside it.
        tokenizer: A tokenizer, or the folder of one. None takes the model's own.
        dtype: Of the weights. None takes bfloat16 where the device is fast at it (CUDA from Ampere on, CPUs with AMX or
            AVX512-BF16), else float32.
        device: None takes CUDA, else MPS, else the CPU.
        device_map: As in transformers, in place of `device`; all of the model has to come to lie on one device.
        revision: Of a hub id: a branch, a tag or a commit.
        trust_remote_code: Run code that the checkpoint brings. Only for authors whom you trust.

    Raises:
        ModelNotFoundError: The name leads to no model; the message says what does.
        UnsupportedModelError: A model that can't be loaded, or not from safetensors alone.
        ConfigurationError: Settings that contradict each other.

    Example:
        >>> from aisp.models import load
        >>> load("smollm2-135m", dtype="float32") is load("smollm2-135m", dtype="float32")  # doctest: +SKIP
        True
    """
    settings = {"dtype": dtype, "device": device, "device_map": device_map, "revision": revision}
    if isinstance(model, LoadedModel):
        _refuse(settings | {"tokenizer": tokenizer}, "a loaded model")
        return model
    if not isinstance(model, (str, os.PathLike)):
        _refuse(settings, "a model given as an object")
        return _load_given(model, tokenizer)
    if device_map is not None and device is not None:
        raise ConfigurationError(f"device is {device!r} and device_map {device_map!r}; give one of them")
    name = os.fspath(model)
    source = _find(name, revision, trust_remote_code=trust_remote_code)
    where = resolve_device(device)
    options: dict[str, Any] = {"dtype": resolve_dtype(dtype, where), "device": where, "device_map": device_map}
    weights_key = (source.key, options["dtype"], str(where), repr(device_map), trust_remote_code)
    key = (*weights_key, _tokenizer_key(tokenizer))
    found = _loaded.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _loaded:
            folder = source.folder()
            if weights_key not in _models:
                options["trust_remote_code"] = trust_remote_code
                _models[weights_key] = checkpoint.load_model(folder, name, **options)
            own = _load_tokenizer(tokenizer, folder, name, trust_remote_code=trust_remote_code)
            _loaded[key] = wrap(name, _models[weights_key], own)
        return _loaded[key]


def check_name(model: str | os.PathLike[str]) -> None:
    """Refuse a name that leads to no model, without loading one; of a hub id, only the config is downloaded.

    Raises:
        ModelNotFoundError: The name leads to no model, or the model isn't on this machine; the message says what to do.
        UnsupportedModelError: Its weights are not in safetensors format.
    """
    name = os.fspath(model)
    source = _find(name, None, trust_remote_code=False)
    if source.key.startswith("embedded:") and not embedded.is_fetched(name):
        source.folder()  # which says how to bring it
    elif source.key.startswith("folder:"):
        checkpoint.check_folder(source.folder(), name)
    elif source.key.startswith("hub:"):
        checkpoint.read_config(name)


def unload() -> None:
    """Forget every model that was loaded by name; memory is free once nobody else holds them."""
    with _lock:
        _loaded.clear()
        _models.clear()


def _refuse(settings: dict[str, Any], what: str) -> None:
    given = sorted(key for key, value in settings.items() if value is not None)
    if given:
        raise ConfigurationError(f"{what} is used as it is, and {', '.join(given)} was given as well; leave that out")


def _load_given(model: Any, tokenizer: Any) -> LoadedModel:
    if not callable(getattr(model, "get_output_embeddings", None)):
        raise ConfigurationError(
            f"model is a {type(model).__name__}; expected a name, a path, or a transformers model with an LM head"
        )
    if tokenizer is None:
        raise ConfigurationError("a model given as an object needs its tokenizer: load(model, tokenizer=...)")
    with _lock:
        # The entry holds both objects, so that while it is here their ids are theirs.
        given = tokenizer if not isinstance(tokenizer, (str, os.PathLike)) else None
        key = (id(model), id(given))
        found = _given.get(key) if given is not None else None
        if found is None:
            name = getattr(model.config, "name_or_path", "") or type(model).__name__
            found = wrap(name, model, _load_tokenizer(tokenizer, Path(), name, trust_remote_code=False))
            if given is not None:
                _given[key] = found
        return found


def _find(name: str, revision: str | None, *, trust_remote_code: bool) -> _Source:
    """Tell what a name leads to, without loading or downloading."""
    path = Path(name).expanduser()
    if name in embedded.EMBEDDED:
        source = _Source(f"embedded:{name}", lambda: embedded.checkpoint(name))
    elif name and path.is_dir():
        source = _Source(f"folder:{path.resolve()}", lambda: path)
    elif path.is_file():
        state = path.stat()
        key = f"gguf:{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
        source = _Source(key, lambda: gguf.convert(path))
    elif checkpoint.HUB_ID.fullmatch(name) and not name.startswith(".") and path.suffix != ".gguf":
        return _Source(
            f"hub:{name}@{revision}", lambda: checkpoint.download(name, revision, with_code=trust_remote_code)
        )
    else:
        raise ModelNotFoundError(
            f"{name!r} leads to no model: there is no such file or folder, and it is neither a hub id (owner/name) nor "
            f"an embedded model ({', '.join(embedded.EMBEDDED)})"
        )
    if revision is not None:
        raise ConfigurationError(f"revision is {revision!r}, and {name!r} is no hub id; leave it out")
    return source


def _tokenizer_key(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    return str(Path(tokenizer).resolve()) if isinstance(tokenizer, (str, os.PathLike)) else f"object {id(tokenizer)}"


def _load_tokenizer(tokenizer: Any, folder: Path, name: str, *, trust_remote_code: bool) -> Any:
    if tokenizer is not None and not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    return checkpoint.load_tokenizer(
        folder if tokenizer is None else Path(tokenizer), name, trust_remote_code=trust_remote_code
    )
