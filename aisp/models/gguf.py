"""GGUF files become ordinary safetensors checkpoints, once, in the cache.

Reading a GGUF file takes its tokenizer apart in Python, which takes from ten seconds to minutes; a checkpoint takes
less than two. The weights are unpacked as well: the pre-logit's perturbation needs a dense LM head.
"""

from __future__ import annotations

import json
import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aisp.errors import AISPError, ModelNotFoundError, UnsupportedModelError
from aisp.models import files
from aisp.models.quiet import no_progress_bars

_log = logging.getLogger(__name__)
_MANIFEST = "aisp-conversion.json"
_VERSION = 1  # of what conversion writes; another number converts anew
_READERS = ("gguf", "accelerate")


def require_reader() -> None:
    """Make sure that GGUF files can be read.

    Raises:
        UnsupportedModelError: A package for it is missing.
    """
    missing = [name for name in _READERS if find_spec(name) is None]
    if missing:
        raise UnsupportedModelError(
            f"reading a GGUF file needs the packages {' and '.join(missing)}, which are not installed: "
            "pip install 'aisp-langchain[gguf]'"
        )


def convert(path: Path, digest: str | None = None) -> Path:
    """Return the checkpoint folder of a GGUF file, made now or earlier.

    Weights are kept as float16, whose 11 bits hold what quantised weights tell apart; as float32 where one is too
    large for that.

    Args:
        path: The GGUF file.
        digest: Its SHA-256, where it is known; None computes it.

    Raises:
        ModelNotFoundError: There is no such file.
        UnsupportedModelError: It is no GGUF file of a causal language model, or what reads it is not installed.
    """
    _check_file(path)
    digest = digest or files.sha256(path)
    target = files.cache_dir() / "converted" / f"{digest[:32]}-{_VERSION}"
    if _is_whole(target):
        return target
    require_reader()
    with files.exclusive(target):
        if not _is_whole(target):
            _make(path, digest, target)
    return target


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {path}; expected a GGUF file")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise UnsupportedModelError(
            f"{path.name} is one part of a split GGUF file; join the parts first (llama-gguf-split --merge)"
        )
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise UnsupportedModelError(f"{path} is no GGUF file: it begins with {magic!r}, expected b'GGUF'")


def _is_whole(target: Path) -> bool:
    """Tell whether a conversion is there and unchanged.

    Hashes are compared only where a file's size or time differs from what was noted when it was written and hashed.
    """
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        for name, noted in manifest["files"].items():
            path = target / name
            state = path.stat()
            if (state.st_size, state.st_mtime_ns) != (noted["bytes"], noted["mtime_ns"]) and (
                state.st_size != noted["bytes"] or files.sha256(path) != noted["sha256"]
            ):
                _log.warning("%s was changed since it was converted; converting again", path)
                return False
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s can't be read (%r); converting again", target / _MANIFEST, error)
        return False
    return True


def _make(path: Path, digest: str, target: Path) -> None:
    if files.sha256(path) != digest:
        raise ModelNotFoundError(
            f"{path} is damaged: its SHA-256 is not {digest}. Delete it and bring it again (aisp model fetch)"
        )
    _log.info("converting %s, once", path)
    with files.scratch(target) as folder:
        made = folder / "checkpoint"
        with no_progress_bars():
            _write(path, made)
        _note(made, digest)
        if target.exists():
            target.rename(folder / "replaced")
        made.rename(target)


def _write(path: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        model = _read_weights(path)
    except AISPError:
        raise
    except Exception as error:  # a torn or foreign file breaks the reader anywhere: struct.error, IndexError, ...
        raise UnsupportedModelError(
            f"transformers can't read {path.name} as a causal language model: {error}. Use the model's safetensors "
            "checkpoint, or a GGUF file of an architecture and a quantisation that transformers knows"
        ) from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _read_weights(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    for dtype in (torch.float16, torch.float32):
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
        if all(bool(weight.isfinite().all()) for weight in model.parameters()):
            return model
    raise UnsupportedModelError(f"{path.name} holds weights that are not finite; it is damaged, bring it again")


def _note(folder: Path, digest: str) -> None:
    """Write down what was made, last of all: a folder without it is no conversion."""
    noted = {}
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)  # safetensors leaves 0600, which a shared cache has no use for
        state = path.stat()
        noted[path.name] = {"sha256": files.sha256(path), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    manifest = {"version": _VERSION, "gguf_sha256": digest, "files": noted}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
