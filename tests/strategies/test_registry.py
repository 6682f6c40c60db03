"""How strategies are found: built in, registered by packages, in a user's module, as objects."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from aisp.errors import ConfigurationError
from aisp.records import Sampling
from aisp.strategies import AISP, BestOfN, TiltedRestart
from aisp.strategies.registry import build_strategy, homes_of, option_names, strategy_names

MODULE = """
from dataclasses import dataclass
from aisp.strategies import BestOfN

@dataclass(frozen=True, slots=True, kw_only=True)
class Mine(BestOfN):
    name = "mine"
    depth: int = 1

class Old:
    name, needs = "old", frozenset()
    def __init__(self, depth: float = 1.0, **rest): self.depth, self.rest = depth, rest
    def __repr__(self): return f"Old({self.depth}, {self.rest})"
    init = propose = update = print

def make(depth=7): return Mine(depth=depth)
READY = Mine(depth=5)
class Half:
    name = "half"
    init = propose = print
class Hungry(Old):
    needs = frozenset({"kept", "telepathy"})
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module on the path."""
    (tmp_path / "somebodys.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("somebodys", None)


def register(folder, distribution, **entries):
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[aisp.strategies]", *lines, ""]))


def test_a_built_in_with_its_options():
    assert build_strategy("tilted_restart", {"parents": 3}) == TiltedRestart(parents=3)
    assert build_strategy("aisp") == AISP()
    assert build_strategy("best_of_n", {"sampling": {"temperature": 1}}) == BestOfN(sampling=Sampling())


def test_a_users_class_by_its_module(module):
    mine = build_strategy("somebodys:Mine", {"depth": "3"})
    assert (mine.name, mine.depth) == ("mine", 3)
    assert build_strategy("somebodys:make", {"depth": 2}).depth == 2
    old = build_strategy("somebodys:Old", {"depth": 2, "colour": "red"})
    assert (old.depth, old.rest) == (2.0, {"colour": "red"})
    assert build_strategy("somebodys:READY").depth == 5


def test_what_an_installed_package_registers(module):
    register(module, "strangers", theirs="somebodys:Mine", ready="somebodys:READY", best_of_n="somebodys:Mine")
    assert {"theirs", "ready"} <= set(strategy_names())
    assert build_strategy("theirs", {"depth": 4}).depth == 4
    assert build_strategy("ready").depth == 5
    assert "theirs" in homes_of("depth")
    assert build_strategy("best_of_n") == BestOfN(), "a built-in can't be replaced"


def test_two_packages_under_one_name_are_told_apart_by_the_user(module):
    register(module, "one", theirs="somebodys:Mine")
    register(module, "other", theirs="somebodys:Old")
    with pytest.raises(ConfigurationError, match=r"several packages .* somebodys:Mine, somebodys:Old; give one"):
        build_strategy("theirs")


def test_a_broken_package_is_named_and_breaks_no_other(module):
    register(module, "strangers", broken="no_such_module:Thing", theirs="somebodys:Mine")
    with pytest.raises(ConfigurationError, match=r"'broken' of an installed package \(no_such_module:Thing\)"):
        build_strategy("broken")
    assert homes_of("parents") == ["tilted_restart"]
    assert "theirs" in homes_of("depth")


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("magic", {}, "there is no strategy 'magic'; expected one of tilted_restart, aisp, best_of_n"),
        ("no_such_module:Mine", {}, "'no_such_module' can't be imported"),
        ("somebodys:Nobody", {}, "somebodys has no 'Nobody'"),
        ("somebodys:Mine", {"width": 3}, "somebodys:Mine has no option width; its options are sampling, depth"),
        ("somebodys:Mine", {"depth": 2.5}, "depth is 2.5"),
        ("somebodys:READY", {"depth": 2}, "is an object, so strategy_options"),
        ("somebodys:Half", {}, "has no update, needs"),
        ("somebodys:Hungry", {}, "needs telepathy, which no engine knows"),
        ("tilted_restart", {"parents": "many"}, "parents is 'many'"),
        ("tilted_restart", {"parents": 0.5}, "parents is 0.5; expected a number >= 1"),
        (BestOfN(), {"sampling": Sampling()}, "is an object, so strategy_options"),
        (BestOfN, {}, r"BestOfN is a class; give an object, BestOfN\(...\)"),
        (3, {}, "int is not a strategy: 3 has no init, propose, update, name, needs"),
        ({"parents": 3}, {}, "options belong in strategy_options"),
    ],
)
def test_what_is_no_strategy_is_refused_with_what_would_be(module, strategy, options, message):
    with pytest.raises(ConfigurationError, match=message):
        build_strategy(strategy, options)


def test_the_options_of_a_class_are_its_parameters():
    @dataclass(frozen=True)
    class Two:
        one: int
        two: int = 2

    assert option_names(Two) == ("one", "two")
    assert option_names(Two(1)) == ()
