"""Find out whether another distribution's files stand where this package's should.

PyPI has a distribution named `aisp` (artificial immune systems) that installs an import package of the same name.
Whichever of the two is installed last overwrites `aisp/__init__.py` and leaves the rest of the other's files there.

Only the standard library is used, and nothing of the package: this file must run when the package beside it is broken.
"""

from __future__ import annotations

from pathlib import Path

DISTRIBUTION = "aisp-langchain"
_OWN_METADATA = "aisp_langchain-"


def intruders(site: Path, package: str = "aisp") -> list[str]:
    """Return the other distributions whose files lie in `site/package`, by name and version.

    The lists of files are searched as bytes: `importlib.metadata` would parse them, for 30 times as long, at every
    import.

    Args:
        site: The folder that holds the package, as `site-packages`. A source tree has no metadata of distributions in
            it, so that an editable install is never suspected.
        package: The import package.
    """
    first, later = f"{package}/".encode(), f"\n{package}/".encode()
    found = []
    for record in sorted(site.glob("*.dist-info/RECORD")):
        if record.parent.name.startswith(_OWN_METADATA):
            continue
        files = record.read_bytes()
        if files.startswith(first) or later in files:
            found.append(record.parent.name.removesuffix(".dist-info").replace("-", " ", 1))
    return found


def collision_message(intruder: str, site: Path) -> str:
    """Say who is in the way and how to put it right."""
    name = intruder.split(" ")[0]
    return (
        f"the import package `aisp` in {site} belongs to the distribution {intruder} as well; "
        f"{DISTRIBUTION} needs that name to itself. Remove the other and put this one's files back:\n"
        f"    pip uninstall {name}\n"
        f"    pip install --force-reinstall --no-deps {DISTRIBUTION}"
    )


def check(package_file: str) -> None:
    """Raise if another distribution's files are mixed in with this package's.

    Args:
        package_file: The `__file__` of the package's `__init__.py`.

    Raises:
        ImportError: Another distribution owns files of the same import package.
    """
    site = Path(package_file).parent.parent
    for intruder in intruders(site):
        raise ImportError(collision_message(intruder, site), name="aisp", path=package_file)
