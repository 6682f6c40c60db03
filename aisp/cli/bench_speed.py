"""What `aisp bench` prints."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from aisp.bench.grammar_cost import grammar_scenarios
from aisp.bench.growth import Axis, Curve, axes, grow, plot_curves
from aisp.bench.speed import Bench, Result, Scenario, measure, random_model
from aisp.cli.progress import progress_on
from aisp.errors import ConfigurationError

_Named = TypeVar("_Named", Scenario, Axis)


def run_speed(
    model: str,
    random_weights: str | None,
    dtype: str | None,
    device: str | None,
    names: Sequence[str],
    *,
    repetitions: int,
    new_tokens: int,
    out: Path | None,
) -> list[Result]:
    """Run scenarios, print a row each as it ends, and write them as JSON."""
    bench, about = _prepared(model, random_weights, dtype, device, new_tokens)
    scenarios = _chosen([*bench.scenarios(), *grammar_scenarios(bench)], names)
    console, results = Console(), []
    with progress_on(console) as progress:
        for scenario in scenarios:
            task = progress.add_task(scenario.name, total=2 * repetitions)
            results.append(measure(bench, scenario, repetitions, lambda task=task: progress.advance(task)))  # type: ignore[misc]
            progress.remove_task(task)
    console.print(_table(results))
    if out is not None:
        _write(out, {**about, "scenarios": [result.to_dict() for result in results]})
    return results


def run_growth(
    model: str,
    random_weights: str | None,
    dtype: str | None,
    device: str | None,
    names: Sequence[str],
    *,
    repetitions: int,
    new_tokens: int,
    out: Path | None,
    plot: Path | None,
) -> list[Curve]:
    """Measure how time grows along each axis, print what was found, and write it as JSON and as a picture."""
    bench, about = _prepared(model, random_weights, dtype, device, new_tokens)
    console, curves = Console(), []
    with progress_on(console) as progress:
        for axis in _chosen(axes(bench), names):
            task = progress.add_task(axis.name, total=len(axis.sizes) * repetitions)
            curves.append(grow(bench, axis, repetitions, lambda task=task: progress.advance(task)))  # type: ignore[misc]
            progress.remove_task(task)
    for curve in curves:
        console.print(f"{curve.name}: {curve.verdict}", f"({curve.what})", markup=False, highlight=False)
        pairs = [f"{size}: {seconds:.2f} s" for size, seconds in zip(curve.sizes, curve.seconds, strict=True)]
        console.print("  " + ", ".join(pairs), f"exponent {curve.exponent:.2f}, {curve.exponent_at_end:.2f} at the end")
        if curve.left_out:
            console.print(f"  left out, since the model's context is too short: {curve.left_out}")
    if out is not None:
        _write(out, {**about, "curves": [curve.to_dict() for curve in curves]})
    if plot is not None:
        plot_curves(curves, plot)
    return curves


def _prepared(
    model: str, random_weights: str | None, dtype: str | None, device: str | None, new_tokens: int
) -> tuple[Bench, dict[str, Any]]:
    """Return a bench, and what its figures have to be read with."""
    import torch

    from aisp.models.devices import resolve_device, resolve_dtype

    where = resolve_device(device)
    weights = resolve_dtype(dtype, where)
    about = {
        "model": random_weights or model,
        "dtype": str(weights),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "new_tokens": new_tokens,
    }
    return _bench(model, random_weights, weights, where, new_tokens), about


def _write(path: Path, figures: dict[str, Any]) -> None:
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _bench(model: str, random_weights: str | None, dtype: Any, device: Any, new_tokens: int) -> Bench:
    from aisp.models import load

    if random_weights is None:
        loaded = load(model, dtype=dtype, device=device)
        return Bench(loaded.model, loaded.tokenizer, new_tokens=new_tokens, eos_token_ids=loaded.eos_token_ids)
    built = random_model(random_weights, dtype, device)
    return Bench(
        built, _NumberTokenizer(built.config.get_text_config().vocab_size), new_tokens=new_tokens, eos_token_ids=(0,)
    )


def _chosen(all_: Sequence[_Named], names: Sequence[str]) -> list[_Named]:
    known = {one.name: one for one in all_}
    unknown = [name for name in names if name not in known]
    if unknown:
        kind = type(all_[0]).__name__.lower()
        raise ConfigurationError(f"there is no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(all_)


def _table(results: Sequence[Result]) -> Table:
    table = Table(
        "scenario",
        "ratio",
        "spread",
        "ours, s",
        "theirs, s",
        "ours, tokens",
        "theirs, tokens",
        "ours, MB",
        "theirs, MB",
        *(["of the floor's speed"] if any(result.floor_seconds for result in results) else []),
        box=None,
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        floor = "" if result.floor_seconds is None else f"{result.floor_seconds / result.ours_seconds:.0%}"
        table.add_row(
            result.name,
            f"{result.ratio:.2f}",
            f"{result.ratio_low:.2f}-{result.ratio_high:.2f}",
            f"{result.ours_seconds:.2f}",
            f"{result.theirs_seconds:.2f}",
            str(result.ours_forward_tokens),
            str(result.theirs_forward_tokens),
            f"{result.ours_peak_bytes / 1e6:.0f}",
            f"{result.theirs_peak_bytes / 1e6:.0f}",
            *([floor] if len(table.columns) > 9 else []),
        )
    return table


class _NumberTokenizer:
    """Spells tokens as their numbers: a model without weights has nothing to say."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))
