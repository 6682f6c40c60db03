"""`aisp bench speed` and `aisp bench growth`: the time of decoding, and how it grows."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table

from aisp import models
from aisp.bench.grammar_cost import grammar_scenarios
from aisp.bench.growth import AXES, Axis, axes, grow, plot_curves
from aisp.bench.speed import Bench, Result, Scenario, measure, random_model
from aisp.cli.options import MODEL_PANEL, OUTPUT_PANEL, DeviceOption, DtypeOption, ModelOption
from aisp.cli.outputs import check_distinct, check_figures, check_picture, write_figures
from aisp.cli.progress import loading, progress_on
from aisp.cli.terminal import add_row, new_table, show, show_all
from aisp.errors import ConfigurationError
from aisp.models import DEFAULT_MODEL
from aisp.models.devices import resolve_device, resolve_dtype

ShapeOption = Annotated[
    str | None,
    typer.Option(
        "--random-weights",
        metavar="CONFIG",
        help="A config.json, or its folder: a model of that shape with random weights.",
        rich_help_panel=MODEL_PANEL,
    ),
]
FiguresOption = Annotated[
    Path | None, typer.Option("--out", help="Where the figures go, as JSON.", rich_help_panel=OUTPUT_PANEL)
]
_Named = TypeVar("_Named", Scenario, Axis)
_SIZES = (8, 32, 128)
SCENARIOS = (
    *(f"short-{n}" for n in _SIZES),
    *("early-ends", "kept", "concurrent", "second-turn"),
    *(f"long-{n}" for n in _SIZES),
    *("grammar", "grammar-perturbed"),
)
"""What `--scenario` takes, known before a model is loaded."""

speed_command = typer.Typer(add_completion=False)
growth_command = typer.Typer(add_completion=False)


@speed_command.command(
    "speed", epilog="Examples:\n\n  aisp bench speed\n\n  aisp bench speed --scenario short-32 --repetitions 5"
)
def speed(
    model: ModelOption = DEFAULT_MODEL,
    random_weights: ShapeOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    scenario: Annotated[
        list[str], typer.Option(metavar="NAME", help="Run only this one; give several, if you like.")
    ] = [],  # noqa: B006 - Typer copies it
    repetitions: Annotated[int, typer.Option(help="Runs of each side, in turn.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 64,
    out: FiguresOption = None,
) -> None:
    """Compare the time of our decoding with that of `generate`.

    They take turns, on the same model and the same work.
    """
    _check_numbers(repetitions, new_tokens)
    _check_names("scenario", scenario, SCENARIOS)
    check_figures(out, "bench speed")
    console, results = Console(), []
    bench, about = _prepared(console, model, random_weights, dtype, device, new_tokens)
    scenarios = _chosen([*bench.scenarios(), *grammar_scenarios(bench)], scenario)
    with progress_on(console) as progress:
        for one in scenarios:
            task = progress.add_task(one.name, total=2 * repetitions)
            results.append(measure(bench, one, repetitions, lambda task=task: progress.advance(task)))  # type: ignore[misc]
            progress.remove_task(task)
    show_all(console, speed_table(results))
    if out is not None:
        write_figures(out, "bench speed", {**about, "scenarios": [result.to_dict() for result in results]})


@growth_command.command(
    "growth", epilog="Examples:\n\n  aisp bench growth --plot growth.png\n\n  aisp bench growth --axis prompt"
)
def growth(
    model: ModelOption = DEFAULT_MODEL,
    random_weights: ShapeOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    axis: Annotated[list[str], typer.Option(metavar="NAME", help="Only this one of responses, prompt, requests.")] = [],  # noqa: B006 - Typer copies it
    repetitions: Annotated[int, typer.Option(help="Runs of every size.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 32,
    out: FiguresOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="A picture: .png, .svg or .pdf.", rich_help_panel=OUTPUT_PANEL)
    ] = None,
) -> None:
    """Measure how time grows with responses, prompt tokens and concurrent requests."""
    _check_numbers(repetitions, new_tokens)
    _check_names("axis", axis, AXES)
    check_distinct([out, plot])
    check_figures(out, "bench growth")
    check_picture(plot)
    console, curves = Console(), []
    bench, about = _prepared(console, model, random_weights, dtype, device, new_tokens)
    with progress_on(console) as progress:
        for one in _chosen(axes(bench), axis):
            task = progress.add_task(one.name, total=len(one.sizes) * repetitions)
            curves.append(grow(bench, one, repetitions, lambda task=task: progress.advance(task)))  # type: ignore[misc]
            progress.remove_task(task)
    for curve in curves:
        show(console, f"{curve.name}: {curve.verdict} ({curve.what})")
        pairs = [f"{size}: {seconds:.2f} s" for size, seconds in zip(curve.sizes, curve.seconds, strict=True)]
        show(console, f"  {', '.join(pairs)}; exponent {curve.exponent:.2f}, {curve.exponent_at_end:.2f} at the end")
        if curve.left_out:
            show(console, f"  left out, since the model's context is too short: {curve.left_out}")
    if out is not None:
        write_figures(out, "bench growth", {**about, "curves": [curve.to_dict() for curve in curves]})
    if plot is not None:
        plot_curves(curves, plot)


def speed_table(results: Sequence[Result]) -> Table:
    """Return a table with a row for each scenario."""
    columns = ["ratio", "spread", "ours, s", "theirs, s", "ours, tokens", "theirs, tokens", "ours, MB", "theirs, MB"]
    has_floor = any(result.floor_seconds for result in results)
    table = new_table("scenario", *columns, *["of the floor's speed"] * has_floor)
    for result in results:
        floor = "" if result.floor_seconds is None else f"{result.floor_seconds / result.ours_seconds:.0%}"
        cells = [
            result.name,
            f"{result.ratio:.2f}",
            f"{result.ratio_low:.2f}-{result.ratio_high:.2f}",
            f"{result.ours_seconds:.2f}",
            f"{result.theirs_seconds:.2f}",
            result.ours_forward_tokens,
            result.theirs_forward_tokens,
            f"{result.ours_peak_bytes / 1e6:.0f}",
            f"{result.theirs_peak_bytes / 1e6:.0f}",
        ]
        add_row(table, [*cells, *[floor] * has_floor])
    return table


def _prepared(
    console: Console, model: str, random_weights: str | None, dtype: str | None, device: str | None, new_tokens: int
) -> tuple[Bench, dict[str, Any]]:
    """Return a bench, and what its figures have to be read with."""
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
    with loading(console, random_weights or model):
        return _bench(model, random_weights, weights, where, new_tokens), about


def _bench(model: str, random_weights: str | None, dtype: Any, device: Any, new_tokens: int) -> Bench:
    if random_weights is None:
        loaded = models.load(model, dtype=dtype, device=device)
        return Bench(loaded.model, loaded.tokenizer, new_tokens=new_tokens, eos_token_ids=loaded.eos_token_ids)
    built = random_model(random_weights, dtype, device)
    tokenizer = _NumberTokenizer(built.config.get_text_config().vocab_size)
    return Bench(built, tokenizer, new_tokens=new_tokens, eos_token_ids=(0,))


def _check_numbers(repetitions: int, new_tokens: int) -> None:
    if min(repetitions, new_tokens) < 1:
        raise ConfigurationError(f"--repetitions is {repetitions}, --new-tokens {new_tokens}; expected numbers >= 1")


def _check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"there is no {kind} {', '.join(unknown)}; there are {', '.join(known)}")


def _chosen(all_: Sequence[_Named], names: Sequence[str]) -> list[_Named]:
    known = {one.name: one for one in all_}
    _check_names(type(all_[0]).__name__.lower(), names, list(known))
    return [known[name] for name in names] or list(all_)


class _NumberTokenizer:
    """Spells tokens as their numbers: a model without weights has nothing to say."""

    eos_token_id = None
    chat_template = None

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))
