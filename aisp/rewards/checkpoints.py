"""Checkpoints that rewards score with: found before they are loaded, and never with code of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aisp.errors import AISPError, ModelNotFoundError, UnsupportedModelError
from aisp.models.checkpoint import read_config


def find(source: str, reward: str, what: str) -> Mapping[str, Any]:
    """Return the config of a checkpoint, without loading its weights.

    Args:
        source: A folder or a hub id.
        reward: The reward's name, for messages.
        what: The checkpoint is expected to be, as "classifier".

    Raises:
        ModelNotFoundError: There is no such checkpoint, or it has no weights in safetensors format.
        UnsupportedModelError: It brings code of its own, or its config can't be read.
    """
    with named(source, reward, what):
        config = read_config(source)
        if "auto_map" in config and config.get("model_type") not in _known_types():
            raise _with_code(source, reward)
        folder = Path(source).expanduser()
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise ModelNotFoundError(f"the folder {source!r} has no weights in safetensors format")
    return config


@contextmanager
def named(source: str, reward: str, what: str) -> Iterator[None]:
    """Say of which reward and checkpoint it is, where loading fails."""
    try:
        yield
    except (OSError, ValueError, ModelNotFoundError) as error:
        if isinstance(error, AISPError) and not isinstance(error, ModelNotFoundError):
            raise
        if "trust_remote_code" in str(error):
            raise _with_code(source, reward) from error
        raise ModelNotFoundError(
            f"reward {reward!r}: there is no {what} at {source!r}: {error}; give a checkpoint directory or a hub id"
        ) from error


def _with_code(source: str, reward: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"reward {reward!r}: the checkpoint {source!r} brings code of its own, which rewards don't run "
        "(trust_remote_code is off); choose one of a type that transformers knows, or where you trust its authors load "
        "it yourself and score with a function of your own"
    )


def _known_types() -> Mapping[str, Any]:
    # Seconds to import, and needed only for a checkpoint that brings code.
    from transformers import CONFIG_MAPPING

    types: Mapping[str, Any] = CONFIG_MAPPING
    return types
