"""What the documents show is run, and does what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aisp.records import Candidate
from aisp.rewards import Length, Sentiment
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
def test_the_first_example_shows_a_steered_answer_with_a_higher_reward(smollm):
    # Not the words: another processor rounds otherwise, and a sampled answer goes another way.
    code, expected = BLOCKS[0]
    rewards = Sentiment(measure="balance") + 0.5 * Length(8, 20)
    for printed in (run(code), expected):
        plain, steered = printed.splitlines()
        scores = rewards.score([Candidate(messages=(), text=text) for text in (plain, steered)])
        assert scores[1].value > scores[0].value + 0.2


@pytest.mark.real
@pytest.mark.parametrize("code", [code for code, _ in BLOCKS[1:]], ids=[f"block{i}" for i in range(1, len(BLOCKS))])
def test_the_readmes_other_blocks_run(smollm, code):
    run(code)


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
