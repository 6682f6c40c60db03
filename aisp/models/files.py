"""The user's cache directory, and files in it that are whole or not there at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "AISP_CACHE"
_CHUNK = 1 << 22


def cache_dir() -> Path:
    """Return where models are kept: `$AISP_CACHE`, or else the system's place for caches. It may not exist yet."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("aisp", appauthor=False))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to make `target`, against other threads and other processes; whoever comes second waits."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        yield


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`, on the same file system so that what is made there can be renamed to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chunks(file: object) -> Iterator[bytes]:
    """Yield a binary file's bytes, some megabytes at a time."""
    read = file.read  # type: ignore[attr-defined]
    while chunk := read(_CHUNK):
        yield chunk
