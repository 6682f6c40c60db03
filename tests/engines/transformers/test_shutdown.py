"""The process ends while daemon threads decode: with the exit status that it had."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
from dataclasses import replace
from aisp.engines.transformers.engine import TransformersEngine
from aisp.errors import EngineError
from aisp.records import Limits, Proposal, Sampling
from aisp.testing import tiny_loaded_model

loaded = tiny_loaded_model()
engine = TransformersEngine(loaded.model, replace(loaded.codec, eos_token_ids=()))
proposals = [Proposal(seed=s, sampling=Sampling(), scale=0.1) for s in range(32)]
started = threading.Event()

def ask():
    try:
        while True:
            prefix = engine.prefill(list(range(20, 300)))
            engine.rollout(prefix, proposals, Limits(max_tokens=200), lambda _: started.set())
    except EngineError:
        pass

for _ in range(3):
    threading.Thread(target=ask, daemon=True).start()
assert started.wait(60)
sys.exit(7)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_the_process_ends_as_it_was_told_to(attempt):
    """It once ended with "terminate called without an active exception", status 134."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (7, "")
