"""What installing and importing promise."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import aisp
from aisp import _guard

ROOT = Path(aisp.__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "tokenizers", "accelerate", "matplotlib", "httpx", "langchain_core")


def python(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; with a path, without the environment's packages and with that first."""
    isolated = [] if path is None else ["-I", "-S"]
    lead = "" if path is None else f"import sys; sys.path.insert(0, {str(path)!r})\n"
    return subprocess.run([sys.executable, *isolated, "-c", lead + code], capture_output=True, text=True, check=False)


def imported(statement: str) -> set[str]:
    done = python(f"import sys\n{statement}\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["aisp", "aisp.models", "aisp.records", "aisp.testing"])
def test_importing_the_engines_outside_loads_nothing_heavy(module: str) -> None:
    assert imported(f"import {module}").isdisjoint(HEAVY)


def test_importing_the_chat_model_loads_no_model_code() -> None:
    pytest.importorskip("aisp_langchain.chat_model")
    found = imported("import aisp_langchain")
    # langchain-core itself imports the top of transformers where it is installed; that is lazy.
    assert "torch" not in found
    assert not {name for name in found if name.startswith("transformers.models")}


def test_the_engine_never_imports_langchain() -> None:
    pattern = re.compile(r"^\s*(from|import) (langchain|langgraph|llama_index|aisp_l)", re.MULTILINE)
    assert [path.name for path in (ROOT / "aisp").rglob("*.py") if pattern.search(path.read_text("utf-8"))] == []


def test_importing_the_llm_loads_no_model_code_and_no_langchain() -> None:
    pytest.importorskip("llama_index.core")
    found = imported("import aisp_llamaindex")
    assert found.isdisjoint({"torch", "langchain_core", "aisp_langchain"})
    assert not {name for name in found if name.startswith("transformers.models")}


def test_the_llm_says_what_it_needs() -> None:
    done = python("import sys; sys.modules['llama_index'] = None; import aisp_llamaindex")
    assert "pip install 'aisp-langchain[llamaindex]'" in done.stderr


def test_the_version_is_the_distributions() -> None:
    assert aisp.__version__ == version("aisp-langchain")


def test_every_package_is_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("aisp", "aisp_langchain", "aisp_llamaindex"))


def test_every_constraint_is_met_and_every_core_requirement_constrained() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    core = [
        re.split(r"[<>=;\[ ]", line)[0].lower() for line in requires("aisp-langchain") or () if "extra ==" not in line
    ]
    assert set(core) <= set(pins)
    assert pins["torch"] == version("torch").split("+")[0]


def test_the_repository_names_no_machine() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert settings["project"]["name"] == "aisp-langchain"
    text = "".join((ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "constraints.txt", "Makefile"))
    assert not re.search(r"file:|--index-url|--find-links|/home/|/root/", text)


def install(site: Path, name: str, files: dict[str, str]) -> None:
    """Install a distribution as pip does, as far as imports and metadata go."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))


OURS = {
    name: (ROOT / name).read_text("utf-8")
    for name in ("aisp/__init__.py", "aisp/_guard.py", "aisp/version.py", "aisp_langchain/_guard.py")
} | {"aisp_langchain/__init__.py": "from aisp_langchain._guard import check\ncheck()\nimport aisp\n"}
THEIRS = {"aisp/__init__.py": "raise RuntimeError('theirs ran')\n", "aisp/nsa.py": ""}


def test_alone_both_packages_import(tmp_path: Path) -> None:
    install(tmp_path, "aisp-langchain", OURS)
    install(tmp_path, "numpy-like", {"other/aisp/__init__.py": ""})
    done = python("import aisp, aisp_langchain; print(aisp.__version__)", tmp_path)
    assert done.stdout.strip() == aisp.__version__, done.stderr


@pytest.mark.parametrize("package", ["aisp", "aisp_langchain"])
def test_ours_installed_over_theirs_is_named(package: str, tmp_path: Path) -> None:
    install(tmp_path, "aisp", THEIRS)
    install(tmp_path, "aisp-langchain", OURS)
    done = python(f"import {package}", tmp_path)
    assert done.returncode == 1
    assert "belongs to the distribution aisp 1.0 as well" in done.stderr
    assert "pip uninstall aisp\n" in done.stderr
    assert "--force-reinstall --no-deps aisp-langchain" in done.stderr


def test_theirs_installed_over_ours_is_named_before_it_runs(tmp_path: Path) -> None:
    install(tmp_path, "aisp-langchain", OURS)
    install(tmp_path, "aisp", THEIRS)
    done = python("import aisp_langchain", tmp_path)
    assert "belongs to the distribution aisp 1.0 as well" in done.stderr
    assert "theirs ran" not in done.stderr


def test_theirs_before_an_editable_install_is_named_before_it_runs(tmp_path: Path) -> None:
    install(tmp_path / "site", "aisp", THEIRS)
    install(tmp_path / "source", "unused", OURS)
    shutil.rmtree(next((tmp_path / "source").glob("*.dist-info")))  # a source tree has no metadata in it
    done = python(f"sys.path.insert(1, {str(tmp_path / 'source')!r})\nimport aisp_langchain", tmp_path / "site")
    assert "belongs to the distribution aisp 1.0" in done.stderr
    assert "theirs ran" not in done.stderr


def test_a_stray_folder_of_the_same_name_is_named_before_it_runs(tmp_path: Path) -> None:
    install(tmp_path / "site", "aisp-langchain", OURS)
    (tmp_path / "here" / "aisp").mkdir(parents=True)
    (tmp_path / "here" / "aisp" / "__init__.py").write_text(THEIRS["aisp/__init__.py"])
    done = python(f"sys.path.insert(1, {str(tmp_path / 'site')!r})\nimport aisp_langchain", tmp_path / "here")
    assert "of unknown name, at" in done.stderr
    assert "which comes first on sys.path" in done.stderr
    assert "pip" not in done.stderr.partition("sys.path")[2]  # there is nothing to uninstall
    assert "theirs ran" not in done.stderr


def test_half_an_installation_says_what_is_missing(tmp_path: Path) -> None:
    install(
        tmp_path, "aisp-langchain", {name: text for name, text in OURS.items() if name.startswith("aisp_langchain")}
    )
    done = python("import aisp_langchain", tmp_path)
    assert "the package `aisp`, which is installed along with `aisp_langchain`, is not there" in done.stderr


def test_this_environment_is_not_suspected() -> None:
    assert _guard.intruders(ROOT) == []
    _guard.check(aisp.__file__)
