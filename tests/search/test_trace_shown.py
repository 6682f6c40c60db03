"""A search in a shell and in a notebook: short, and with what a reader wants to know."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from aisp.rewards import Contains, FunctionReward, Length
from aisp.service import Service
from aisp.settings import SearchSettings

EVIL = '<script>alert("x")</script>&amp;'


@pytest.fixture(scope="module")
def alignment(tiny):
    reward = Length(3, 5) + 0.5 * Contains("the") + 0.0 * FunctionReward(len, name=EVIL)
    settings = SearchSettings(budget=64, num_samples=16, max_tokens=32, seed=1)
    return Service(tiny, reward, settings).run("Hi").alignment


def test_a_search_is_a_line_in_a_shell(alignment):
    shown = repr(alignment)
    assert len(shown) < 250, "it was 72,712 characters once"
    assert repr(alignment.text[:20])[1:-1] in shown
    assert f"reward={alignment.best.reward:.4g}" in shown
    assert "responses=64" in shown
    assert "stopped_by='budget'" in shown


def test_so_are_its_parts(alignment):
    assert all(len(repr(one)) < 200 for one in (*alignment.rounds, *alignment.responses))
    assert re.fullmatch(r"Round\(index=0, responses=\d+, best=[-\d.e]+, seconds=[\d.e-]+\)", repr(alignment.rounds[0]))
    assert f"reward={alignment.best.reward:.4g}" in repr(alignment.best)


class Read(HTMLParser):
    """The tags and the text of some HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data + "|"


def test_a_notebook_shows_answer_reward_parts_and_rounds(alignment):
    read = Read(alignment._repr_html_())
    assert alignment.text in read.text
    assert f"|{alignment.best.reward:.3f}|" in read.text
    for name, value in alignment.best.score.parts.items():
        assert f"|{name}|{value:.3f}|" in read.text
    assert read.tags.count("table") == 2
    assert read.tags.count("tr") == 2 + len(alignment.best.score.parts) + len(alignment.rounds)
    assert "script" not in read.tags, "a part's name is text"


def test_a_plain_sample_has_no_reward_to_show(tiny):
    sample = Service(tiny, None, SearchSettings(max_tokens=4, seed=1)).run(EVIL).alignment
    assert "reward=None" in repr(sample)
    assert Read(sample._repr_html_()).tags.count("table") == 1
