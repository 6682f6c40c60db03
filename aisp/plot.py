"""Pictures of searches (matplotlib, from the `plot` extra)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aisp.errors import ConfigurationError
from aisp.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MADE_BY = "aisp-langchain"
"""What a picture of ours says in its own data, so that it is told from others."""
_MARKS = (b"Software\0aisp-langchain ", b"<dc:title>aisp-langchain ", b"/Creator (aisp-langchain ")
SUFFIXES = (".png", ".svg", ".pdf")
"""The formats that can say so."""
_MAKERS = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}


class Plotted(Protocol):
    """What a picture of a search needs of it, as an `Alignment` has it."""

    @property
    def responses(self) -> Iterator[Any]: ...

    def best_so_far(self) -> list[tuple[int, float]]: ...


def plot_alignments(alignments: Mapping[str, Plotted], path: str | Path | None = None) -> Figure:
    """Draw reward against the number of responses drawn, one colour a search.

    Args:
        alignments: Searches by the name in the legend.
        path: Where to save the picture, by its suffix; None saves nothing.

    Raises:
        ConfigurationError: matplotlib is not installed, or the picture can't be written.
    """
    figure = new_figure(7, 4.4)
    axes = figure.subplots()
    for name, alignment in alignments.items():
        points = [(i, r.reward) for i, r in enumerate(alignment.responses, start=1) if r.score.usable]
        (line,) = axes.step(
            *zip(*alignment.best_so_far(), strict=True), where="post", label=f"{name}, best so far", lw=2
        )
        drawn, rewards = zip(*points, strict=True)
        axes.scatter(drawn, rewards, s=12, alpha=0.4, color=line.get_color(), label=f"{name}, every response")
    axes.set_xlabel("responses generated and scored")
    axes.set_ylabel("reward")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    if path is not None:
        save_figure(figure, path)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that needs no display.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError('a plot needs matplotlib: pip install "aisp-langchain[plot]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def is_ours(picture: bytes) -> bool:
    """Return whether a picture says that it was drawn here; another one's text may name the package too."""
    return any(mark in picture for mark in _MARKS)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save a picture, in the format of its suffix; those of `SUFFIXES` say what made them.

    Raises:
        ConfigurationError: matplotlib knows no such format, or the file can't be written.
    """
    maker = _MAKERS.get(Path(path).suffix.lower())
    try:
        figure.savefig(path, dpi=150, metadata={maker: f"{MADE_BY} {__version__}"} if maker else None)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the picture {path} can't be written: {error}") from error
