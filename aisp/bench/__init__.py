"""Benchmarks: what the search costs, against what people use today."""

from __future__ import annotations
