"""A search as a notebook shows it: the answer, its reward and parts, and a table of the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

_COLUMNS = {
    "responses": "responses",
    "distinct": "distinct",
    "mean_reward": "mean reward",
    "best_reward": "best reward",
    "best_so_far": "best so far",
    "ess": "ESS",
    "kl_to_base": "KL (nats)",
    "forward_tokens": "tokens",
    "seconds": "seconds",
}


class Shown(Protocol):
    """What is shown of a search, as an `Alignment` has it."""

    @property
    def text(self) -> str: ...

    def summary(self) -> dict[str, Any]: ...


def alignment_html(alignment: Shown) -> str:
    """Return HTML; whatever a model, a reward or a user wrote is escaped in it."""
    summary = alignment.summary()
    pieces = [f'<div><p style="white-space: pre-wrap">{escape(alignment.text)}</p>']
    if summary["reward"] is not None:
        pieces.append(f"<p>reward <b>{_shown(summary['reward'])}</b></p>")
        pieces.append(_table(["part", "value"], [[name, _shown(value)] for name, value in summary["parts"].items()]))
    rows = [[str(i), *(_shown(row[name]) for name in _COLUMNS)] for i, row in enumerate(summary["rounds"])]
    pieces.append(_table(["round", *_COLUMNS.values()], rows))
    cost = summary["cost"]
    pieces.append(
        f"<p>{escape(summary['strategy'])}: {cost['responses']} responses in {_shown(cost['seconds'])} s, "
        f"stopped by {escape(summary['stopped_by'])}</p></div>"
    )
    return "".join(pieces)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
