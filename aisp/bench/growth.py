"""`aisp bench growth`: how the time of a request grows with its responses, its prompt, and the requests beside it.

Each repetition goes through all sizes of an axis once, so that a machine whose speed drifts bends no curve; the median
is kept. Two exponents are fitted to log time over log size: over all sizes, and over the largest (a factor of 4), where
what does not grow no longer hides what does. 1 is linear.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aisp.bench.speed import SHORT, Bench, samples
from aisp.errors import ConfigurationError
from aisp.plot import new_figure, save_figure

RESPONSES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PROMPTS = (100, 200, 400, 800, 1600, 4000)
REQUESTS = (1, 2, 4, 8, 16)
AXES = ("responses", "prompt", "requests")
_EACH = 8  # responses of a request where something else grows
_LINEAR = 1.05  # what still counts as linear: medians of a few repetitions say no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One thing that grows.

    Args:
        name: What `--axis` calls it.
        what: In words, with what stays as it is.
        sizes: Ascending.
        work: Does the work of a size; the number beside it tells repetitions apart.
    """

    name: str
    what: str
    sizes: Sequence[int]
    work: Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds by size, and the exponents fitted to them.

    Args:
        name: Name of the axis.
        what: What grows, in words.
        sizes: Sizes that the model's context holds.
        left_out: Sizes that it doesn't hold.
        seconds: Median seconds at each of `sizes`.
        exponent: Slope over all sizes.
        exponent_at_end: Slope over the largest, a factor of 4.
    """

    name: str
    what: str
    sizes: list[int]
    left_out: list[int]
    seconds: list[float]
    exponent: float
    exponent_at_end: float

    @property
    def verdict(self) -> str:
        worst = max(self.exponent, self.exponent_at_end)
        return "no worse than linear" if worst <= _LINEAR else f"worse than linear: exponent {worst:.2f}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def axes(bench: Bench) -> list[Axis]:
    """Return what grows: responses, prompt tokens, concurrent requests."""
    tokens = f"{bench.new_tokens} new tokens each"

    def request(length: int, n: int, turn: int) -> None:
        bench.rollout(bench.prompt(length, turn), samples(n, turn))

    def requests(count: int, turn: int) -> None:
        with ThreadPoolExecutor(count) as pool:
            for one in [pool.submit(request, SHORT, _EACH, 1000 * turn + 20 * count + i) for i in range(count)]:
                one.result()

    return [
        Axis(
            name="responses",
            what=f"responses; {SHORT}-token prompt, {tokens}",
            sizes=RESPONSES,
            work=lambda n, turn: request(SHORT, n, 1000 * turn + n),
        ),
        Axis(
            name="prompt",
            what=f"tokens of a new prompt; {_EACH} responses, {tokens}",
            sizes=PROMPTS,
            work=lambda length, turn: request(length, _EACH, 1000 * turn),
        ),
        Axis(
            name="requests",
            what=f"concurrent requests; {SHORT}-token prompts, {_EACH} responses of {bench.new_tokens} tokens each",
            sizes=REQUESTS,
            work=requests,
        ),
    ]


def grow(bench: Bench, axis: Axis, repetitions: int, tell: Callable[[], None] = lambda: None) -> Curve:
    """Measure one axis, after a warm-up at its smallest size.

    Args:
        bench: The model.
        axis: What grows.
        repetitions: Of every size.
        tell: Called after each run.

    Raises:
        ConfigurationError: No repetitions, or a context that holds fewer than two sizes.
    """
    if repetitions < 1:
        raise ConfigurationError(f"repetitions is {repetitions}; expected at least 1")
    room = bench.engine.context_length
    fits = [size for size in axis.sizes if axis.name != "prompt" or room is None or size + bench.new_tokens <= room]
    if len(fits) < 2:
        raise ConfigurationError(
            f"the model's context holds {room} tokens, too few for prompts of {axis.sizes[1]} tokens and "
            f"{bench.new_tokens} new ones; choose a model with a longer one, or fewer --new-tokens"
        )
    axis.work(fits[0], 0)
    runs: dict[int, list[float]] = {size: [] for size in fits}
    for turn in range(1, repetitions + 1):
        for size in fits:
            started = time.perf_counter()
            axis.work(size, turn)
            runs[size].append(time.perf_counter() - started)
            tell()
    seconds = [statistics.median(runs[size]) for size in fits]
    at_end = next(i for i, size in enumerate(fits) if size * 4 >= fits[-1])
    at_end = min(at_end, len(fits) - 2)
    return Curve(
        name=axis.name,
        what=axis.what,
        sizes=fits,
        left_out=[size for size in axis.sizes if size not in fits],
        seconds=seconds,
        exponent=exponent(fits, seconds),
        exponent_at_end=exponent(fits[at_end:], seconds[at_end:]),
    )


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of log seconds over log size, by least squares.

    Example:
        >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
        2.0
    """
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in seconds]).slope


def plot_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw each curve on logarithmic axes, with a linear one through its last point.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure(4.4 * len(curves), 3.8)
    for axes_, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        axes_.loglog(curve.sizes, curve.seconds, marker="o", label=f"measured, exponent {curve.exponent:.2f}")
        linear = [curve.seconds[-1] * size / curve.sizes[-1] for size in curve.sizes]
        axes_.loglog(curve.sizes, linear, ls="--", color="0.6", label="linear")
        axes_.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes], rotation=45)
        axes_.minorticks_off()
        axes_.set_xlabel(curve.what.replace("; ", "\n"))
        axes_.set_ylabel("seconds")
        axes_.spines[["top", "right"]].set_visible(False)
        axes_.legend(frameon=False)
    save_figure(figure, path)
