"""Files that a command writes at its end: figures, pictures, reports. What aisp didn't write is never written over.

Each such file says in itself which command wrote it, so that the command may write it again and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aisp.errors import ConfigurationError
from aisp.jsonl import MARK, check_place
from aisp.plot import SUFFIXES, is_ours, new_figure
from aisp.version import __version__


def check_figures(path: Path | None, command: str) -> None:
    """Refuse a place where `write_figures` can't write, or shouldn't.

    Raises:
        ConfigurationError: The place can't be written, or holds a file that this command didn't write.
    """
    content = None if path is None else _content(path)
    if path is None or not content:
        return
    try:
        written = json.loads(content)[MARK]["command"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _not_ours(path) from error
    if written != command:
        raise ConfigurationError(f"{path} holds what `aisp {written}` wrote; give another file, or delete it")


def write_figures(path: Path, command: str, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON."""
    whole = {MARK: {"command": command, "version": __version__}, **figures}
    _write(path, json.dumps(whole, ensure_ascii=False, indent=2) + "\n")


def check_report(path: Path, command: str) -> None:
    """Refuse a place where `write_report` can't write, or shouldn't. See `check_figures`."""
    content = _content(path)
    if content and not content.startswith(_comment(command).encode()):
        raise _not_ours(path)


def write_report(path: Path, command: str, text: str) -> None:
    """Write a report as Markdown."""
    _write(path, f"{_comment(command)}\n\n{text}")


def check_picture(path: Path | None) -> None:
    """Refuse a picture that can't be drawn or written.

    Raises:
        ConfigurationError: matplotlib is not installed, the suffix is not that of a picture, the place can't be
            written, or it holds a file that aisp didn't write.
    """
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        got = f"the suffix {path.suffix!r}" if path.suffix else "no suffix"
        raise ConfigurationError(f"the picture {path} has {got}; expected one of {', '.join(SUFFIXES)}")
    new_figure(1, 1)  # which says what is missing, if anything is
    content = _content(path)
    if content and not is_ours(content):
        raise _not_ours(path)


def check_distinct(paths: Sequence[Path | None]) -> None:
    """Refuse one path for two files.

    Raises:
        ConfigurationError: Two of them lead to the same file.
    """
    given = [path.resolve() for path in paths if path is not None]
    twice = next((path for path in given if given.count(path) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"{twice} is given for two files; give each a name of its own")


def _content(path: Path) -> bytes:
    """Return what a place that can be written holds; nothing where there is no file yet."""
    real = check_place(path)
    try:
        return real.read_bytes() if real.exists() else b""
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error}; give another file") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error}") from error


def _comment(command: str) -> str:
    return f"<!-- written by aisp {command} -->"


def _not_ours(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} exists and was not written by aisp; nothing was changed, give another file, or delete this one"
    )
