"""The command line with a tiny model in place of any that is named."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from aisp import models
from aisp.cli.app import app


@pytest.fixture
def invoke(tiny, monkeypatch):
    """Run the command line; `columns` is how wide the terminal is."""
    monkeypatch.setattr(models, "load", lambda name, **placed: tiny)

    def run(*arguments, columns=120):
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, words, env={"COLUMNS": str(columns), "TERM": "dumb"})

    return run


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    """Fail a test in which a model is loaded."""
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("a model was loaded"))
