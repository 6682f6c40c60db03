"""A file of results that a killed run goes on with: one JSON line a result, each written at once.

Every line begins with what wrote it and with which settings, so that a file of something else is told from ours, and
so that a run with other settings doesn't go on with it. While a file is open it is locked.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from aisp.errors import ConfigurationError
from aisp.version import __version__

MARK = "aisp"
"""The key under which a file of ours says what wrote it."""
_HEAD = json.dumps({MARK: {"command": ""}})[:-3].encode()  # how every line begins: {"aisp": {"command": "


class ResultFile:
    """JSONL, keyed by what was asked. Rows are written once; a last line that a kill tore is dropped.

    Nothing is written before the first row, and nothing that is not ours is ever changed. Thread-safe.

    Args:
        path: Where the results are, or will be.
        command: What writes them, as "align".
        settings: What all rows of the file share, as JSON. A file that was begun with others is refused.

    Raises:
        ConfigurationError: The path can't be written, holds something else, or rows of another command or of other
            settings; or another run is writing to it.
    """

    def __init__(self, path: Path, command: str, settings: Mapping[str, Any] | None = None) -> None:
        self.path = check_place(path)
        self.done: dict[str, dict[str, Any]] = {}
        plain = json.loads(json.dumps(dict(settings or {}), default=str))
        self._made_by = {"command": command, "version": __version__, "settings": plain}
        self._size: int | None = None  # of the part to go on behind, where there is more that goes
        self._ends_open = False
        self._writing = threading.Lock()
        self._file_lock = _locked(self.path)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def write(self, key: str, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns.

        Raises:
            ConfigurationError: The file can't be written any more, as on a full disk.
        """
        row = {MARK: self._made_by, "key": key, **row}
        with self._writing:
            try:
                self._append(_line(row))
            except OSError as error:
                raise ConfigurationError(
                    f"{self.path} can't be written: {error}; what it holds is kept, and the same command goes on there"
                ) from error
            self.done[key] = row

    def close(self) -> None:
        """Let others write to the file."""
        if self._file_lock.is_locked:
            # Removed while it is held: whoever waits for it finds that it has no name any more, and makes another.
            Path(self._file_lock.lock_file).unlink(missing_ok=True)
            self._file_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            if self._size is not None:
                file.truncate(self._size)
            file.write(b"\n" * self._ends_open + line)
            file.flush()
            os.fsync(file.fileno())
        self._size, self._ends_open = None, False

    def _read(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        *lines, last = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            self._take(number, line)
        if not last:
            return
        if _is_json(last):
            self._take(len(lines) + 1, last)
            self._ends_open = True
        elif last.startswith(_HEAD) or (lines and _HEAD.startswith(last)):
            self._size = len(content) - len(last)
        else:
            raise _not_ours(self.path, len(lines) + 1)

    def _take(self, number: int, line: bytes) -> None:
        try:
            row = json.loads(line)
            command, settings, key = row[MARK]["command"], dict(row[MARK]["settings"]), str(row["key"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _not_ours(self.path, number) from error
        if command != self._made_by["command"]:
            raise ConfigurationError(
                f"{self.path} holds results of `aisp {command}`, not of `aisp {self._made_by['command']}`; "
                "give another file"
            )
        if settings != self._made_by["settings"]:
            raise ConfigurationError(
                f"{self.path} was begun with other settings: {_differences(settings, self._made_by['settings'])}; "
                "give another file, or the settings that this one was begun with"
            )
        self.done[key] = row


def check_place(path: Path) -> Path:
    """Return the path of a file that can be written, with links followed; nothing is made or changed.

    Raises:
        ConfigurationError: The folder is missing, or something there can't be written or is not a file.
    """
    try:
        real = path.resolve()
        found = real.stat().st_mode if real.exists() else None
        folder = real.parent
        if not folder.is_dir():
            raise ConfigurationError(f"{path} can't be written: there is no folder {folder}; create it first")
        if found is not None and not stat.S_ISREG(found):
            kind = "a folder" if stat.S_ISDIR(found) else "not a regular file"
            raise ConfigurationError(f"{path} can't be written: it is {kind}; give the name of a file")
        # Bits as well as access: whoever may write anything still should not write to what was made read-only.
        if found is not None and not (found & 0o222 and os.access(real, os.W_OK)):
            raise ConfigurationError(f"{path} can't be written: it is read-only; give another file")
        if not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK | os.X_OK)):
            raise ConfigurationError(f"{path} can't be written: the folder {folder} is read-only; give another one")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long, a NUL in it
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{str(path)!r} can't be written: {error}; give another file") from error
    return real


def result_key(*parts: Any) -> str:
    """Return a digest of what was asked: equal questions have equal keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _locked(path: Path) -> FileLock:
    place = path.with_name(f".{path.name}.lock")
    lock = FileLock(place, blocking=False, thread_local=False)
    try:
        if place.exists() and not _is_empty_file(place):  # taking the lock empties it, and letting go deletes it
            raise ConfigurationError(
                f"{place}, which is to show that {path.name} is being written, holds something else; "
                "nothing was changed, give another file"
            )
        lock.acquire()
    except Timeout as error:
        raise ConfigurationError(
            f"another run is writing to {path}; wait until it has ended, or give another file"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} can't be locked: {error}; give a file in another folder") from error
    return lock


def _is_empty_file(path: Path) -> bool:
    found = path.stat()
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which UTF-8 can't say and JSON can
        return json.dumps(row).encode() + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _not_ours(path: Path, line: int) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not a result file: its line {line} was not written by aisp; nothing was changed, give another file"
    )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return ", ".join(f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}" for name in names)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of a file.

    Args:
        line: Its line in the file, from 1.
        index: Its place among the lines that aren't empty, from 0.
        messages: OpenAI-style; none where the line can't be read.
        error: What is wrong with the line; None where nothing is.
    """

    line: int
    index: int
    messages: list[dict[str, Any]]
    error: str | None = None


def scan_prompts(path: Path) -> list[Prompt]:
    """Read a file of prompts: a line of text each, or in a .jsonl file a JSON object each.

    An object has `messages`, `prompt`, `text`, `question`, or `turns`, of which the first is taken.

    Returns:
        One for each line that isn't empty, those with an error included.

    Raises:
        ConfigurationError: The file can't be read, is UTF-16, or has nothing but empty lines.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the prompts can't be read: {error}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError(f"{path} is UTF-16 text; expected UTF-8, so save it as that")
    # Split at line feeds alone: JSON may hold the other ends of lines that Python knows within its strings.
    numbered = enumerate(content.split(b"\n"), start=1)
    lines = [(number, line) for number, line in numbered if line.removeprefix(codecs.BOM_UTF8).strip()]
    if not lines:
        raise ConfigurationError(f"{path} holds no prompts; expected one a line")
    prompts = []
    for index, (number, line) in enumerate(lines):
        try:
            prompts.append(Prompt(number, index, _messages(line, as_json=path.suffix == ".jsonl")))
        except ConfigurationError as error:
            prompts.append(Prompt(number, index, [], str(error)))
    return prompts


def read_prompts(path: Path) -> list[list[dict[str, Any]]]:
    """Return the messages of each prompt in a file. See `scan_prompts`.

    Raises:
        ConfigurationError: The file can't be read, or some line holds no prompt.
    """
    prompts = scan_prompts(path)
    for prompt in prompts:
        if prompt.error is not None:
            raise ConfigurationError(f"line {prompt.line} of {path}: {prompt.error}")
    return [prompt.messages for prompt in prompts]


def _messages(line: bytes, *, as_json: bool) -> list[dict[str, Any]]:
    try:
        text = line.decode().removeprefix("\ufeff").strip()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"the text is not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}"
        ) from error
    messages = _from_json(text) if as_json else [{"role": "user", "content": text}]
    check_text(messages)
    return messages


def _from_json(text: str) -> list[dict[str, Any]]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the text is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"the JSON is a {type(row).__name__}; expected an object with a prompt or messages")
    if "messages" in row:
        return _checked(row["messages"])
    for name in ("prompt", "text", "question"):
        if isinstance(row.get(name), str):
            return [{"role": "user", "content": row[name]}]
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str):
        return [{"role": "user", "content": turns[0]}]
    raise ConfigurationError("the object has no messages, prompt, text, question or turns with text in it")


def _checked(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise ConfigurationError(f"messages is {messages!r:.60}; expected a list of at least one")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ConfigurationError(f"message {index} has no role; expected an object with role and content")
    return messages


def check_text(value: Any) -> None:
    """Refuse text that a model can't be given, anywhere in a JSON value.

    Raises:
        ConfigurationError: A NUL, or half of a surrogate pair.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigurationError("the text holds a NUL character; take it out")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigurationError("the text holds half of a surrogate pair, which is not a character; mend it")
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_text(key)
            check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            check_text(inner)
