"""Imports of the packages: at the top of each module, and light. Their direction is `make lint`'s (import-linter)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aisp

ROOT = Path(aisp.__file__).resolve().parents[1]
PACKAGES = ("aisp", "aisp_langchain", "aisp_llamaindex")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_no_import_of_our_own_is_hidden_in_a_function():
    hidden = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, FUNCTIONS)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES
    ]
    assert hidden == []


@pytest.mark.parametrize("module", ["aisp", "aisp.service", "aisp.rewards", "aisp.engines", "aisp_langchain"])
def test_importing_loads_neither_torch_nor_transformers(module):
    heavy = "[name for name in ('torch', 'transformers') if name in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
