"""A file of results that a killed run goes on with: one JSON line a prompt, each written at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aisp.errors import ConfigurationError


class ResultFile:
    """JSONL, keyed by what was asked. A last line that a kill tore is dropped; every other line stays as it is.

    Raises:
        ConfigurationError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def write(self, key: str, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns."""
        row = {"key": key, **row}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[key] = row

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self.done[row["key"]] = row
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigurationError(
                    f"line {number} of {self.path} is no result of an earlier run; give another file to --out"
                ) from error
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(len(content) - len(torn))


def result_key(*parts: Any) -> str:
    """Return a digest of what was asked: equal questions have equal keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_prompts(path: Path) -> list[list[dict[str, Any]]]:
    """Read prompts as messages: a line of text each, or in a .jsonl file an object with `messages`, `prompt` or `text`.

    Raises:
        ConfigurationError: No such file, no prompts, or a line that holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"the prompts can't be read: {error}") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise ConfigurationError(f"{path} holds no prompts; expected one a line")
    if path.suffix != ".jsonl":
        return [[{"role": "user", "content": line.strip()}] for line in lines]
    return [_messages(path, number, line) for number, line in enumerate(lines, start=1)]


def _messages(path: Path, number: int, line: str) -> list[dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigurationError(f"line {number} of {path} is no JSON: {error}") from error
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        return list(row["messages"])
    for name in ("prompt", "text", "question"):
        if isinstance(row, dict) and isinstance(row.get(name), str):
            return [{"role": "user", "content": row[name]}]
    if isinstance(row, dict) and row.get("turns"):
        return [{"role": "user", "content": str(row["turns"][0])}]
    raise ConfigurationError(f"line {number} of {path} has no messages, prompt, text, question or turns")
