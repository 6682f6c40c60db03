"""Make sure that the `aisp` which is about to be imported is this distribution's own.

`aisp` guards itself against files of another distribution among its own. It can't where another distribution's
`__init__.py` has replaced its own, or where another `aisp` comes first on `sys.path`; here that is seen before any of
the other's code runs.
"""

from __future__ import annotations

import runpy
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path


def check() -> None:
    """Raise if `import aisp` would bring something else.

    Raises:
        ImportError: Another distribution's package is in the way.
    """
    site = Path(__file__).resolve().parent.parent
    spec = find_spec("aisp")
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    if found is None:
        raise ImportError(
            "the package `aisp`, which is installed along with `aisp_langchain`, is not there; put it back:\n"
            "    pip install --force-reinstall --no-deps aisp-langchain",
            name="aisp",
        )
    guard = runpy.run_path(str(site / "aisp" / "_guard.py"))
    if found.parent != site / "aisp":
        owner = _owner(found)
        if owner is None:
            raise ImportError(
                f"`import aisp` brings a package of unknown name, at {found.parent}, which comes first on sys.path; "
                "expected the one of the distribution aisp-langchain. Rename that folder, or start Python elsewhere",
                name="aisp",
                path=str(found),
            )
        raise ImportError(guard["collision_message"](owner, found.parent.parent), name="aisp", path=str(found))
    if b"_guard" not in found.read_bytes():
        guard["check"](str(found))


def _owner(init: Path) -> str | None:
    """Return the name and version of the distribution that installed this `aisp/__init__.py`."""
    for distribution in distributions(path=[str(init.parent.parent)]):
        if any(file.as_posix() == "aisp/__init__.py" for file in distribution.files or ()):
            return f"{distribution.name} {distribution.version}"
    return None
