"""Answers to the requests for tools: by the model alone, and by searches of equal budget that a rule chooses for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aisp.bench.quality.statistics import Difference, paired
from aisp.bench.tools.rule import fitting_call
from aisp.bench.tools.tasks import Task, load_tasks, load_tools
from aisp.models import LoadedModel
from aisp.service import Service
from aisp.settings import SearchSettings

ALONE = "model alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one way of answering answered one request.

    Args:
        arm: The strategy's name, or `ALONE`.
        prompt: The request.
        settings: The numbers of the search, its seed among them.
        calls: Name and arguments of each.
        text: What was said beside the calls.
        right_tool: The expected tool was called, or none where none fits.
        right_call: So it was, with the expected arguments.
        reward: None where nothing was scored.
        forward_tokens: Response tokens that the search ran the model over.
        seconds: Of the search, while others were in flight.
    """

    arm: str
    prompt: str
    settings: dict[str, Any]
    calls: list[dict[str, Any]]
    text: str
    right_tool: bool
    right_call: bool
    reward: float | None
    forward_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request, to be answered in one way.

    Args:
        task: The request.
        arm: The way's name.
        search: Its settings, with a seed.
    """

    task: Task
    arm: str
    search: SearchSettings

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers of the search, as a row has them."""
        return self.search.model_dump(exclude_defaults=True)


class Bench:
    """A model with the tools, and the rule that scores its calls.

    Args:
        model: The model.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model, self._tools = model, load_tools()
        self._reward = fitting_call(self._tools)

    def answer(self, question: Question) -> Row:
        """Answer a request."""
        task, reward = question.task, None if question.arm == ALONE else self._reward
        service = Service(self._model, reward, question.search)
        alignment = service.run(task.prompt, tools=self._tools, parallel_tool_calls=False).alignment
        candidate = alignment.best.candidate
        return Row(
            arm=question.arm,
            prompt=task.prompt,
            settings=question.settings,
            calls=[{"name": call["name"], "args": call["args"]} for call in candidate.tool_calls],
            text=candidate.text,
            right_tool=task.right_tool(candidate),
            right_call=task.right_call(candidate),
            reward=None if reward is None else alignment.best.reward,
            forward_tokens=alignment.cost.forward_tokens,
            seconds=alignment.cost.seconds,
        )


def choose_tasks(limit: int | None) -> list[Task]:
    """Return the requests, or so many of them, spread over the file, which is sorted by tool."""
    tasks = load_tasks()
    return tasks if limit is None else tasks[:: max(1, len(tasks) // limit)][:limit]


def ask(tasks: Sequence[Task], arms: dict[str, SearchSettings], seeds: int) -> list[Question]:
    """Return every request in every way; one that draws nothing at random is asked once."""
    return [
        Question(task=task, arm=name, search=search.model_copy(update={"seed": seed}))
        for task in tasks
        for name, search in arms.items()
        for seed in range(1 if name == ALONE else seeds)
    ]


def difference(rows: Sequence[Row], arm: str, other: str) -> Difference:
    """Return by how much one arm's share of right calls is above another's, paired by request."""
    prompts = dict.fromkeys(row.prompt for row in rows)
    return paired([[_share(rows, arm, prompt) - _share(rows, other, prompt)] for prompt in prompts])


def _share(rows: Sequence[Row], arm: str, prompt: str) -> float:
    own = [row.right_call for row in rows if row.arm == arm and row.prompt == prompt]
    return sum(own) / len(own)
