"""The quality benchmark on the tiny model, as an object and as a command."""

from __future__ import annotations

import pytest

from aisp.bench.quality.runs import Quality
from aisp.cli.bench_quality import run_quality
from aisp.jsonl import ResultFile
from aisp.records import Sampling
from aisp.rewards import Contains, Length
from aisp.settings import SearchSettings


@pytest.fixture
def quality(tiny, tmp_path):
    def build(**changes):
        options = {
            "model": tiny,
            "prompts": [[{"role": "user", "content": text}] for text in ("one", "two", "three")],
            "reward": Length(3, 6),
            "held_out": {"the": Contains("the")},
            "strategies": {"ours": SearchSettings(strategy="tilted_restart", num_samples=4)},
            "plain": {"t1": Sampling(temperature=1.0), "t2": Sampling(temperature=0.5)},
            "pool_size": 12,
            "budget": 12,
            "max_tokens": 8,
            "seeds": (1, 2),
            "concurrency": 3,
        }
        results = changes.pop("results", None) or ResultFile(tmp_path / "rows.jsonl", "bench quality")
        opened.append(results)
        return Quality(**{**options, **changes, "results": results})

    opened = []
    yield build
    for results in opened:
        results.close()


@pytest.fixture
def command(tiny, tmp_path, monkeypatch):
    """The command on three prompts, into the folder `out` below the test's own."""
    import aisp.models

    monkeypatch.setattr(aisp.models, "load", lambda *args, **kwargs: tiny)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")

    def run(out="out", **changes):
        options = {
            "rewards": ["length:2..4"],
            "held_out": [],
            "strategies": ["tilted_restart"],
            "rules": [],
            "plain": ["temperature=0.9"],
            "model": "tiny",
            "dtype": None,
            "budget": 8,
            "pool": 8,
            "num_samples": 4,
            "max_tokens": 6,
            "seeds": 1,
            "skip": 0,
            "limit": None,
            "concurrency": 2,
            "out": tmp_path / out,
        }
        return run_quality(tmp_path / "prompts.txt", **{**options, **changes})

    return run
