"""The tool-choice requests, what counts as right, the rule that doesn't know it, and the command over them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aisp.bench.tools.rule import fitting_call, grounded, named_by_rule
from aisp.bench.tools.runs import ALONE, Bench, Row, difference
from aisp.bench.tools.tasks import Task, load_tasks, load_tools
from aisp.cli.app import app
from aisp.cli.bench_tools import run_tools
from aisp.errors import ConfigurationError
from aisp.records import Candidate
from aisp.testing import tiny_loaded_model

TOOLS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in load_tools()}
RAIN = "Will it rain in Glasgow today?"


def said(prompt: str, *calls: tuple[str, dict], text: str = "", invalid: bool = False) -> Candidate:
    return Candidate(
        messages=[{"role": "user", "content": prompt}],
        text=text,
        tool_calls=tuple({"name": name, "args": args, "id": "c"} for name, args in calls),
        invalid_tool_calls=({"name": "x", "args": "", "id": "c", "error": "cut off"},) if invalid else (),
    )


class TestTasks:
    def test_there_are_enough_of_every_kind(self):
        tasks = load_tasks()
        assert len({task.prompt for task in tasks}) == len(tasks) == 50
        assert all(sum(task.tool == name for task in tasks) == 5 for name in TOOLS)
        assert sum(task.tool is None for task in tasks) == 10

    @pytest.mark.parametrize("task", load_tasks(), ids=lambda task: task.prompt)
    def test_the_known_answer_is_a_call_of_the_tool(self, task):
        if task.tool is None:
            assert task.args == {}
            return
        assert sorted(task.args) == sorted(TOOLS[task.tool]["required"])
        args = {name: " ".join(value) if isinstance(value, list) else value for name, value in task.args.items()}
        assert task.right_call(said(task.prompt, (task.tool, args)))
        # What is expected of the arguments is in the request, so that a rule that looks there is not misled.
        assert grounded(args, task.prompt) == 1

    def test_what_is_right(self):
        task = Task(prompt="?", tool="send_email", args={"to": "a@b.org", "body": ["late"]})
        good = {"to": "A@b.org.", "body": "I am late, sorry"}
        assert task.right_call(said("?", ("send_email", good)))
        assert task.right_tool(said("?", ("send_email", {"to": "c@b.org", "body": "late"})))
        assert not task.right_call(said("?", ("send_email", {"to": "c@b.org", "body": "late"})))
        assert not task.right_call(said("?", ("send_email", {"to": "a@b.org", "body": "soon"})))
        assert not task.right_call(said("?", ("send_email", {"to": "a@b.org"})))
        assert not task.right_tool(said("?", ("translate", good)))
        assert not task.right_tool(said("?", ("send_email", good), ("send_email", good)))
        assert not task.right_tool(said("?", text="I will."))

    def test_where_no_tool_fits_text_is_right(self):
        task = Task(prompt="Hi", tool=None)
        assert task.right_call(said("Hi", text="Hello!"))
        assert not task.right_call(said("Hi", ("translate", {})))
        assert not task.right_call(said("Hi", invalid=True))

    def test_numbers_match_however_they_are_written(self):
        task = Task(prompt="?", tool="calculate", args={"expression": "17*23"})
        assert task.right_call(said("?", ("calculate", {"expression": "17 * 23"})))
        assert not task.right_call(said("?", ("calculate", {"expression": "17 * 32"})))


class TestRule:
    def score(self, *args, **kwargs) -> float:
        return fitting_call(load_tools()).score([said(*args, **kwargs)])[0].value

    def test_it_prefers_the_tool_whose_description_fits_and_arguments_that_were_given(self):
        right = self.score(RAIN, ("get_weather", {"city": "Glasgow"}))
        assert right == 1.0
        assert self.score(RAIN, ("get_weather", {"city": "Paris"})) == 0.0
        assert self.score(RAIN, ("search_web", {"query": "Glasgow"})) == 0.0
        assert self.score(RAIN, ("search_web", {"query": "Glasgow pubs"})) == -0.5
        assert self.score(RAIN, text="It will.") == 0.0
        assert self.score(RAIN, invalid=True) == -1.0

    def test_it_would_rather_not_call_where_nothing_fits(self):
        assert self.score("Who are you?", ("search_web", {"query": "Glasgow"})) == -1.0
        assert self.score("Who are you?", text="A model.") == 0.0

    def test_it_does_not_know_the_answers(self):
        choose = named_by_rule(load_tools())
        right = sum(choose(task.prompt) == task.tool for task in load_tasks())
        assert right == 32  # of 50: better than chance, and far from knowing


class TestCommand:
    @pytest.fixture
    def roomy(self, monkeypatch):
        """A model whose context holds eight tools, spelt out in bytes."""
        loaded = tiny_loaded_model(max_position_embeddings=8192)
        monkeypatch.setattr("aisp.models.load", lambda *args, **kwargs: loaded)
        return loaded

    def test_it_answers_reports_and_goes_on_where_it_stopped(self, roomy, tmp_path, monkeypatch):
        pytest.importorskip("llguidance")
        out = tmp_path / "rows.jsonl"
        options = ["--budget", "4", "--num-samples", "2", "--max-tokens", "24", "--limit", "2"]
        arguments = ["bench", "tools", "--model", "tiny", *options, "--strategy", "best_of_n", "--out", str(out)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert f"right calls, best_of_n - {ALONE}" in done.output
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert sorted(row["arm"] for row in rows) == ["best_of_n"] * 2 + [ALONE] * 2
        searched = next(row for row in rows if row["arm"] == "best_of_n")
        (alone,) = (row for row in rows if row["arm"] == ALONE and row["prompt"] == searched["prompt"])
        assert searched["settings"]["budget"] == 4
        assert searched["forward_tokens"] > alone["forward_tokens"]
        kept = out.read_text()
        monkeypatch.setattr(Bench, "answer", lambda *args: pytest.fail("it is there already"))
        again = CliRunner().invoke(app, arguments)
        assert again.output.splitlines()[-6:] == done.output.splitlines()[-6:]
        assert out.read_text() == kept

    def test_differences_are_paired_by_request(self):
        def row(arm: str, prompt: str, right: bool) -> Row:
            figures = {"calls": [], "text": "", "reward": 0.0, "forward_tokens": 1, "seconds": 1.0, "settings": {}}
            return Row(arm=arm, prompt=prompt, right_tool=right, right_call=right, **figures)

        rows = [row("a", str(i), i % 2 == 0) for i in range(8)] + [
            row("b", str(i), i % 2 == 0 or i == 1) for i in range(8)
        ]
        found = difference(rows, "b", "a")
        assert (found.mean, found.low, found.prompts) == (0.125, 0, 8)
        assert 0.125 < found.high <= 0.5
        assert difference(rows, "a", "b").mean == -0.125

    def test_numbers_that_make_no_sense_are_refused(self):
        numbers = {"budget": 4, "num_samples": 2, "max_tokens": 8}
        with pytest.raises(ConfigurationError, match="limit 0"):
            run_tools("tiny", ["best_of_n"], **numbers, seeds=1, limit=0)
        with pytest.raises(ConfigurationError, match="strategy"):
            run_tools("tiny", ["hope"], **numbers, seeds=1, limit=1)
