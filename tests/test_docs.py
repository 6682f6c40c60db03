"""What the documents show is run, and what they say it prints is what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aisp.settings import SearchSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)
BLOCKS = BLOCK.findall(README)
RECIPES = sorted((ROOT / "cookbook").glob("*.py"))


def run(code_or_file):
    arguments = [str(code_or_file)] if isinstance(code_or_file, Path) else ["-c", code_or_file]
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=600,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{i}" for i in range(len(BLOCKS))])
def test_the_readmes_blocks_print_what_they_say(smollm, block):
    code, expected = block
    assert run(code) == expected


@pytest.mark.real
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_run(smollm, recipe):
    assert run(recipe).strip()


def test_the_readme_has_a_first_example_with_its_output():
    assert BLOCKS
    assert BLOCKS[0][1].strip()


def test_every_setting_is_in_the_readmes_table():
    table = README[README.index("## Settings") : README.index("## Command line")]
    missing = [name for name in SearchSettings.model_fields if f"`{name}`" not in table]
    assert missing == []


def test_files_that_the_readme_links_to_are_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_document_names_a_folder_of_somebodys_machine():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *RECIPES]:
        assert not re.search(r"(^|[\s\"'(])/(home|root|work|tmp|Users)/", path.read_text(encoding="utf-8")), path
