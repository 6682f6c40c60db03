"""The check of a reward as a picture: values, prompts, length, and how the parts agree."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from aisp.bench.quality.statistics import chosen_probabilities
from aisp.bench.reward.result import RewardCheck
from aisp.plot import new_figure, save_figure

_DOT, _LINE, _WRONG = "#3b6ea5", "#c8553d", "#9b2915"
_SHOWN_PARTS = 8


def draw_check(check: RewardCheck, path: str | Path) -> None:
    """Draw a check.

    Args:
        check: What was found.
        path: Where the picture goes; the suffix says in which format.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    said = [textwrap.fill(f"• {c.text}", 118, subsequent_indent="   ") for c in check.complaints]
    lines = sum(text.count("\n") + 1 for text in said)
    figure = new_figure(10.5, 7.2 + 0.22 * max(lines, 1))
    (values, prompts), (length, last) = figure.subplots(2, 2)
    rows = _rows(check)
    _draw_values(values, check, rows)
    _draw_prompts(prompts, check, rows)
    _draw_length(length, check, rows)
    if len(check.parts) > 1:
        _draw_parts(last, check)
    else:
        _draw_gain(last, check)
    for axes in (values, prompts, length, last):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10.5)
    head = f"{check.reward}: {check.responses} responses to {check.prompts} prompts, {check.distinct} different"
    head += f", {check.vetoed} vetoed" * bool(check.vetoed) + f", {check.failed} failed" * bool(check.failed)
    figure.suptitle(head, x=0.01, ha="left", fontsize=13, fontweight="bold")
    text = "\n".join(said) if said else "• nothing to complain of"
    figure.supxlabel(text, x=0.01, ha="left", fontsize=10, color=_WRONG if said else "#2d6a4f")
    save_figure(figure, path)


def _rows(check: RewardCheck) -> list[tuple[int, int, float]]:
    """Return (prompt, words, value) of each usable response."""
    return [
        (prompt, len(candidate.text.split()), score.value)
        for prompt, group in enumerate(check.groups)
        for candidate, score in group
        if score.usable
    ]


def _draw_values(axes: Any, check: RewardCheck, rows: list[tuple[int, int, float]]) -> None:
    axes.set(xlabel="value", ylabel="responses", title="nothing could be scored")
    if check.ties is None or check.spread is None:
        return
    axes.hist([value for _, _, value in rows], bins=30, color=_DOT)
    if check.bounds:
        for bound in check.bounds:
            axes.axvline(bound, color=_LINE, lw=1, ls="--")
    top = f"{100 * check.ties.at_high:.0f} % at the top ({check.spread.high:.3g})"
    low = f"{100 * check.ties.at_low:.0f} % at the bottom ({check.spread.low:.3g})"
    axes.set_title(f"{top}, {low}")


def _draw_prompts(axes: Any, check: RewardCheck, rows: list[tuple[int, int, float]]) -> None:
    means = {prompt: np.mean([v for p, _, v in rows if p == prompt]) for prompt in {p for p, _, _ in rows}}
    places = {prompt: place for place, prompt in enumerate(sorted(means, key=lambda prompt: means[prompt]))}
    axes.scatter([places[p] for p, _, _ in rows], [v for _, _, v in rows], s=14, alpha=0.5, color=_DOT, lw=0)
    for prompt, place in places.items():
        axes.hlines(means[prompt], place - 0.35, place + 0.35, color=_LINE, lw=2)
    axes.set(xlabel="prompts, by their mean", ylabel="value", xticks=[])
    if check.spread is not None:
        within, between = check.spread.within_prompts, check.spread.between_prompts
        axes.set_title(f"standard deviation {within:.3g} within prompts, {between:.3g} between")


def _draw_length(axes: Any, check: RewardCheck, rows: list[tuple[int, int, float]]) -> None:
    axes.scatter([w for _, w, _ in rows], [v for _, _, v in rows], s=14, alpha=0.5, color=_DOT, lw=0)
    found = "constant" if check.length.value is None else f"{check.length.value:+.2f}"
    axes.set(xlabel="words", ylabel="value", title=f"rank correlation with length, within prompts: {found}")


def _draw_parts(axes: Any, check: RewardCheck) -> None:
    names = [*check.parts[:_SHOWN_PARTS], "whole"]
    grid = np.eye(len(names))
    for i, one in enumerate(names[:-1]):
        grid[i, -1] = grid[-1, i] = _number(check.part_and_whole[one].value)
        for j, other in enumerate(names[:-1]):
            if (one, other) in check.agreement:
                grid[i, j] = grid[j, i] = _number(check.agreement[one, other].value)
    axes.imshow(grid, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        shown = "–" if np.isnan(value) else f"{value:+.2f}"
        axes.text(j, i, shown, ha="center", va="center", fontsize=9, color="white" if abs(value) > 0.6 else "black")
    axes.set_xticks(range(len(names)), [textwrap.shorten(n, 18, placeholder="…") for n in names], rotation=25)
    axes.set_yticks(range(len(names)), [textwrap.shorten(n, 18, placeholder="…") for n in names])
    axes.set_title("rank correlation of the parts, within prompts")


def _draw_gain(axes: Any, check: RewardCheck) -> None:
    groups = [np.array([s.value for _, s in group if s.usable]) for group in check.groups]
    groups = [group for group in groups if len(group) > 1]
    axes.set(xlabel="best of so many samples", ylabel="mean value", title="what choosing among plain samples gives")
    if groups:
        counts = range(1, min(map(len, groups)) + 1)
        best = [np.mean([chosen_probabilities(group, n) @ group for group in groups]) for n in counts]
        axes.plot(counts, best, color=_LINE, lw=2, marker="o", ms=4)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
