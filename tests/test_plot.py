"""Pictures: what is drawn is what was found."""

from __future__ import annotations

from aisp.forms import Form
from aisp.plot import plot_alignments
from aisp.records import Limits, Score
from aisp.search.loop import Aligner, Request
from aisp.search.plan import Plan
from aisp.strategies import AISP, BestOfN
from aisp.testing import FakeEngine
from tests.search.fakes import FakeReward


def alignment_of(strategy):
    reward = FakeReward(lambda text: Score(value=9.0, vetoed=True) if text == "elm" else float(len(text)))
    form = Form()
    plan = Plan(budget=20, num_samples=8)
    aligner = Aligner(FakeEngine(), strategy, reward, plan, parse=form.parse, settle=form.settle)
    search = aligner.search(Request(messages=[], prompt_tokens=[1], limits=Limits(max_tokens=3), seed=1))
    *_, last = search.events()
    return last.alignment


def test_the_line_is_the_best_so_far_and_every_usable_response_is_a_dot(tmp_path):
    alignments = {strategy.name: alignment_of(strategy) for strategy in (BestOfN(), AISP())}
    figure = plot_alignments(alignments, tmp_path / "search.png")
    [axes] = figure.axes
    for line, dots, alignment in zip(axes.lines, axes.collections, alignments.values(), strict=True):
        usable = [(i, r.reward) for i, r in enumerate(alignment.responses, start=1) if r.score.usable]
        assert [tuple(point) for point in dots.get_offsets().tolist()] == usable
        drawn, best = (list(data) for data in line.get_data())
        assert best == sorted(best)
        assert (drawn[-1], best[-1]) == (20, alignment.best.reward)
        assert len(usable) < 20
    assert (tmp_path / "search.png").stat().st_size > 5000
