"""The report as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aisp.bench.quality.curves import curve
from aisp.bench.quality.report import Report
from aisp.plot import new_figure, save_figure


def draw(report: Report, path: Path) -> None:
    """Draw mean reward against responses and against forward tokens, and the paired differences; with gold, also the
    gains in proxy and gold against sqrt(KL), a panel a gold measure.
    """
    panels = 3 + len(report.gold)
    figure = new_figure(4 * panels, 4.2)
    from matplotlib.ticker import NullFormatter  # optional, and there when the figure is

    axes = list(figure.subplots(1, panels))
    curves, compute, gaps = axes[:3]
    for name, answers in report.answers.items():
        at = np.arange(4, answers.size + 1)
        mean, tokens = answers.mean("reward")[at - 1], answers.forward_tokens.mean((0, 1))[at - 1]
        (line,) = curves.plot(at, mean, label=name)
        compute.plot(tokens, mean, color=line.get_color())
        _draw_gaps(gaps, report, name, line.get_color())
        for gold, panel in zip(report.gold, axes[3:], strict=True):
            _draw_gold(panel, report, name, gold, line.get_color())
    curves.set(xlabel="responses", ylabel="mean reward of the answer", xscale="log")
    compute.set(xlabel="forward tokens", xscale="log")
    gaps.set(xlabel="responses", ylabel="reward minus best-of-n's, in its sd", xscale="log")
    for panel in (curves, compute, gaps):
        panel.xaxis.set_minor_formatter(NullFormatter())
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(3, len(report.answers)), frameon=False)
    save_figure(figure, path)


def _draw_gaps(axes: Any, report: Report, name: str, color: str) -> None:
    if name == report.baseline:
        axes.axhline(0.0, color=color)
        return
    if not (budgets := report.budgets(name)):
        return
    found = [report.difference(name, budget) for budget in budgets]
    axes.plot(budgets, [d.mean for d in found], color=color, marker="o", ms=3)
    axes.fill_between(budgets, [d.low for d in found], [d.high for d in found], color=color, alpha=0.2, lw=0)


def _draw_gold(axes: Any, report: Report, name: str, gold: str, color: str) -> None:
    drawn = curve(report, name, gold)
    for values, style in ((drawn.proxy, "-"), (drawn.gold, "--")):
        axes.plot(drawn.distance, values, style, color=color, marker="o", ms=3)
    axes.set(xlabel="sqrt(KL), in sqrt(nats)", ylabel="gain over a plain sample, in its sd")
    axes.set_title(f"proxy (solid), gold (dashed)\n{shortened(gold)}", fontsize=9)


def shortened(name: str, width: int = 44) -> str:
    """Return a name as short as a title has to be."""
    return name if len(name) <= width else "…" + name[1 - width :]
