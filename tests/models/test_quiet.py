"""Loading shows no progress bars, and leaves the process as it was."""

from __future__ import annotations

import pytest
from huggingface_hub import utils as hub
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging

from aisp.models import load, unload
from aisp.models.quiet import no_progress_bars
from aisp.testing import tiny_model, tiny_tokenizer


@pytest.fixture(params=[True, False], ids=["bars on", "bars off"])
def bars(request):
    """The process's own choice, put back afterwards."""
    before = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    (logging.enable_progress_bar if request.param else logging.disable_progress_bar)()
    yield request.param
    (logging.enable_progress_bar if before[0] else logging.disable_progress_bar)()
    (hub.disable_progress_bars if before[1] else hub.enable_progress_bars)()


def state():
    return logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled(), gguf.tqdm


def test_loading_writes_nothing_and_changes_nothing(bars, tmp_path, capfd):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    capfd.readouterr()
    before = state()
    load(tmp_path)
    unload()
    assert "Loading" not in capfd.readouterr().err
    assert state() == before


def test_loads_that_overlap_restore_what_there_was_before_the_first(bars):
    before = state()
    one, other = no_progress_bars(), no_progress_bars()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not logging.is_progress_bar_enabled(), "the other is still loading"
    other.__exit__(None, None, None)
    assert state() == before


def test_a_load_that_fails_restores_too(bars):
    before = state()
    with pytest.raises(ValueError, match="torn"), no_progress_bars():
        raise ValueError("torn")
    assert state() == before
