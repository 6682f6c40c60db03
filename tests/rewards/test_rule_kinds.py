"""Each kind of rule: what keeps it, what comes near, what is no rule, and what holds of any text."""

from __future__ import annotations

import ast
import json
import sys

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards import (
    Avoids,
    Case,
    Contains,
    Elements,
    Ends,
    Every,
    FirstWord,
    Frequency,
    Language,
    Length,
    Matches,
    OneOf,
    Parts,
    Readability,
    Regex,
    Schema,
    Sentiment,
    Starts,
    ValidJSON,
    ValidPython,
    Wrapped,
    as_strict,
    postscript,
)
from aisp.rewards.ifeval import instruction
from aisp.rewards.rules import language
from aisp.rewards.rules.readability import readability
from aisp.rewards.rules.units import count_syllables, sentences
from aisp.rewards.spec import parse_reward

PERSON = {"type": "object", "required": ["name", "age"], "properties": {"age": {"type": "integer"}}}
TEXTS = st.text(st.sampled_from("*-#<>[]\"'.,!? \n\taAbIß{}:1") | st.characters(), max_size=60)
RULES = [
    Length(3, 5, unit="sentences"),
    Length(2, 9, unit="tokens", tokenizer=list),
    Contains("a", "b", whole=False),
    Avoids("a", ","),
    Frequency("a", 2, 3, whole=False),
    Frequency(",", 0, 0, whole=False),
    Matches(r"\w+", 3),
    Regex("a", near="b"),
    OneOf("aA.", "b b"),
    Starts("a b"),
    Ends("b a."),
    Wrapped("<<", ">>"),
    Case("upper"),
    Case("lower"),
    *(Elements(kind, 1, 2) for kind in ("bullets", "numbered", "headings", "paragraphs")),
    *(Elements(kind, 1, 2) for kind in ("highlights", "placeholders", "capitals")),
    Parts(2, 2, distinct=True),
    FirstWord("a", 2, 3),
    ValidJSON(fenced=True),
    ValidPython(fenced=True),
    Schema(PERSON),
    Language("en"),
    Readability(60, 80),
    Readability(high=8, measure="grade"),
    postscript("P.S."),
    Every(Case("upper"), Length(3), Avoids(",")),
]


@pytest.mark.parametrize(
    ("rule", "text", "value"),
    [
        (Length(2, 3, unit="tokens", tokenizer=list), "abcdef", 0.5),
        (Length(2, 2, unit="sentences"), 'Mr. Lee of the U.S. met J. Ray at 5 p.m. today. "Why?" he said', 2 / 3),
        (Length(3, 3, unit="sentences"), "Well... so it is. And I? P.S. It rains", 3 / 4),
        (Length(2, 2, unit="sentences"), "今日は。晴れです。", 1.0),
        (Contains("rain", whole=False), "a train", 1.0),
        (Contains("rain", "sunset"), "Train at SUNRISE", (4 / 4 + 3 / 6) / 2 / 2),
        (Contains("thunder"), "then", 0.0),
        (Avoids("rain", "sun", whole=False), "a train", 0.5),
        (Frequency("rain", 2, 3), "Rain, rain, and a train", 1.0),
        (Frequency("rain", 4), "Rain, rain, and a train", 0.5),
        (Frequency("rainbow", 2), "rain, rain", 4 / 7 / 2 / 2),
        (Frequency(",", 0, 0, whole=False), "a,b,c", 1 / 3),
        (Regex("<<.+>>", near="<.+>"), "<T>", 0.5),
        (OneOf("yes.", "no."), "no", 2 / 3),
        (Starts(" Dear Ann"), "\nDEAR ANN, ", 1.0),
        (Starts("abcd"), "abxx", 0.5),
        (Starts("abcd"), "x abcd", 0.5),
        (Ends("the end."), 'This is THE END. "', 0.5),
        (Ends("the end."), '"This is THE END."\n', 1.0),
        (Wrapped(), '"', 0.5),
        (Wrapped(), ' "a" ', 1.0),
        (Wrapped("<<", ">>"), "<<a", 0.5),
        (Wrapped("<<", ">>"), "a>>", 0.5),
        (Wrapped(), 'so "a"', ((1 - 3 / 6) / 2 + 1) / 2),
        (Wrapped(), '"a" so', (1 + (1 - 3 / 5) / 2) / 2),
        (Wrapped(), 'so "a', (1 - 1 / 5) / 2 / 2),
        (Case("upper"), "ABCd, 1", 0.75),
        (Case("lower"), "123", 0.0),
        (Elements("bullets", 3, 3), "* a\n- b\n**c**\n\n  * d\n• e", 1.0),
        (Elements("numbered", 2), "1. a\n2) b\n3 c", 1.0),
        (Elements("headings", 2, 2), "# a\n\n### b\n#c\n####### d", 1.0),
        (Elements("paragraphs", 2, 2), "\n\na\nb\n \n\nc\n", 1.0),
        (Elements("highlights", 3, 3), "*a* x **b** * *\n*c*", 1.0),
        (Elements("placeholders", 2, 2), "[a] [b [c]", 1.0),
        (Elements("capitals", 4, 4), "NASA's AT&T-like I can'T SHOUT: WELL-KNOWN.", 0.8),
        (Parts(2, 2), "***a***b***", 1.0),
        (Parts(2, 2), "a******b", 2 / 3),
        (Parts(2, 2, distinct=True), "a***a", 0.5),
        (Parts(2, 2), "a", 0.5),
        (Parts(1, 2), "***", 0.0),
        (FirstWord("Dear"), "'Dear, you'", 1.0),
        (FirstWord("dear"), "My dear", 0.5),
        (FirstWord("dear", 2, 2), "One.\n\nDear", 1.0),
        (FirstWord("dear", 2, 2), "One.\n\nDear\n\nTwo", (2 / 3 + 1) / 2),
        (ValidJSON(fenced=True), "```json\n[1]\n```", 1.0),
        (ValidJSON(), "[" * 100_000, 0.0),
        (ValidJSON(), "1" * 10_000, 0.0),
        (ValidPython(), "x = 1\ny = '\\d'\n", 1.0),
        (ValidPython(), "x = 1\ny = (", 1 / 6),
        (ValidPython(), "x = '\0'", 0.0),
        (ValidPython(), "(" * 10_000, 0.0),
        (ValidPython(fenced=True), "Here:\n```python\nx = 1\n```\nDone, I think.", 1.0),
        (Schema(PERSON), '{"name": 1, "age": 2}', 1.0),
        (Schema(PERSON), '{"age": "2"}', (1 + 1 / 3) / 4),
        (Schema(PERSON), '{"age"', 6 / 7 / 4),
        (Schema({"multipleOf": 0.1}), "1e999", 3 / 8),
        (Schema(True), "1", 1.0),
        (Language("de"), "https://example.org/the-best-of-all me@example.org 12:30", 1.0),
        (Language("de"), "12:30", 1.0),
        (Readability(90), "The cat sat on the mat.", 1.0),
        (Readability(90), "", 0.0),
        (postscript("P.S."), "Yours\n\np. s. more", 1.0),
        (postscript("P.P.S"), "Yours\n\nP.P.S more", 1.0),
        (postscript("P.P.S"), "Yours\n\nPPS more", 0.5),
        (postscript("P.S."), "steps of psychology", 0.0),
        (Every(Case("upper"), Length(2, 2)), "AB", 0.75),
    ],
)
def test_rules(rule, text, value):
    assert rule.grade_text(text) == pytest.approx(value)
    assert value_of(as_strict(rule), text) == float(rule.grade_text(text) == 1.0)


def value_of(reward, text):
    return reward.score([Candidate(messages=[], text=text)])[0].value


@settings(deadline=None)
@given(text=TEXTS)
def test_any_text_has_a_grade(text):
    for rule in RULES:
        note(f"{rule.name}: {rule.config()}")
        grade = rule.grade_text(text)
        assert 0.0 <= grade <= 1.0
        assert value_of(rule, text) == grade
        assert value_of(as_strict(rule), text) == float(grade == 1.0)


def parses(read, text):
    try:
        read(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)
@given(text=TEXTS)
def test_kept_is_what_python_says_is_kept(text):
    stripped = text.strip()
    assert (Case("upper").grade_text(text) == 1.0) == text.isupper()
    assert (Case("lower").grade_text(text) == 1.0) == text.islower()
    assert (Frequency(",", 0, 0, whole=False).grade_text(text) == 1.0) == ("," not in text)
    assert (Starts("a").grade_text(text) == 1.0) == stripped.lower().startswith("a")
    assert (Ends("a").grade_text(text) == 1.0) == stripped.strip('"').lower().endswith("a")
    assert (Wrapped().grade_text(text) == 1.0) == (len(stripped) > 1 and stripped[0] == stripped[-1] == '"')
    assert (OneOf("a", "b").grade_text(text) == 1.0) == ("a" in text or "b" in text)
    assert (ValidJSON().grade_text(text) == 1.0) == parses(json.loads, text)
    assert (ValidPython().grade_text(text) == 1.0) == parses(ast.parse, text)
    assert (Schema(PERSON).grade_text(text) == 1.0) <= parses(json.loads, text)


@settings(deadline=None)
@given(count=st.integers(0, 200), low=st.integers(0, 20), more=st.none() | st.integers(0, 20))
def test_counts_fall_with_their_distance_from_the_bounds(count, low, more):
    rule = Length(low, None if more is None else low + more, unit="characters")
    grade, farther = rule.grade_text("x" * count), rule.grade_text("x" * (count + 1))
    assert (grade == 1.0) == (low <= count <= (rule.high if rule.high is not None else count))
    if count < low:
        assert grade < farther
    elif rule.high is not None and count > rule.high:
        assert grade > farther


def test_sentences_keep_their_text():
    text = 'Dr. Ray (J. R. Ray, e.g.) came... and left! "Did he?" Yes.'
    assert sentences(text) == ["Dr. Ray (J. R. Ray, e.g.) came... and left!", '"Did he?"', "Yes."]


@pytest.mark.parametrize(
    ("syllables", "words"),
    [
        (1, "the make makes walked rhythm naïve"),
        (2, "table horses wanted poem going"),
        (3, "idea created syllable"),
    ],
)
def test_syllables(syllables, words):
    assert {word: count_syllables(word) for word in words.split()} == dict.fromkeys(words.split(), syllables)


def test_readability_is_fleschs():
    text = "The cat sat on the mat. It was a fine day."
    assert readability(text) == pytest.approx((206.835 - 1.015 * 5.5 - 84.6, 0.39 * 5.5 + 11.8 - 15.59))
    hard = "Notwithstanding considerable organisational complications, implementation continued uninterruptedly."
    assert Readability(60).grade_text(hard) < Readability(60).grade_text("Complicated explanations continue.") < 1.0
    assert (
        Readability(high=8, measure="grade").grade_text(hard)
        < Readability(high=8, measure="grade").grade_text(text)
        == 1.0
    )


def test_language_is_graded_by_its_share():
    english, french = "It is a fine day and we go to the park.", "Il fait beau et nous allons au parc avec les enfants."
    grades = [Language("fr").grade_text(text) for text in (english, f"{english} {english} {french}", french)]
    assert grades[0] < 0.1 < grades[1] < grades[2] == 1.0
    assert {Language(code).grade_text(english) for code in ("fr", "de", "mr")} == {0.0}, (
        "noise of the identifier is no grade"
    )
    named = "By the name of Haiyar... (Laughs)\nWith the help of the Marathos... (Laughs)"
    assert Language("mr").grade_text(named) == 0.0, "nor is a little of it in a sentence among others"
    assert Language("fr").grade_text(french.upper()) == 1.0


def test_a_tokenizer_counts_without_special_tokens():
    class Tokenizer:
        name_or_path = "words"

        def encode(self, text, add_special_tokens):
            assert not add_special_tokens
            return text.split()

    rule = Length(2, 2, unit="tokens", tokenizer=Tokenizer())
    assert rule.grade_text("a b") == 1.0
    assert rule.fingerprint == Length(2, 2, unit="tokens", tokenizer=Tokenizer()).fingerprint
    assert rule.config()["tokenizer"] == "words"


def test_fingerprints_tell_rules_apart():
    rules = [Length(2), Length(2, strict=True), Length(2, unit="sentences"), Length(2, unit="tokens", tokenizer=list)]
    rules += [Frequency("a", 2), Frequency("a", 2, whole=False), Matches("a", 2), Every(Length(2)), Every(Length(3))]
    assert len({rule.fingerprint for rule in rules}) == len(rules)
    assert as_strict(Length(2)).fingerprint == Length(2, strict=True).fingerprint != Length(2).fingerprint


def test_a_reference_that_leads_nowhere_is_an_error_and_nothing_is_fetched():
    with pytest.raises((ConfigurationError, RewardError), match="nowhere"):
        value_of(Schema({"$ref": "http://nowhere.invalid/schema"}), "1")


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language._identifier.cache_clear()
    with pytest.raises(ConfigurationError, match=r"aisp-langchain\[rules\]"):
        Schema({})
    with pytest.raises(ConfigurationError, match=r"aisp-langchain\[rules\]"):
        Language("en")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Length(unit="tokens"),
        lambda: Length(tokenizer=list),
        lambda: Length(unit="tokens", tokenizer=3),
        lambda: Frequency(""),
        lambda: Frequency("a", -1),
        lambda: Matches("("),
        lambda: Regex("a", near="("),
        lambda: Elements("smileys"),
        lambda: Elements("bullets", 3, 2),
        lambda: Parts(0, 2),
        lambda: Parts(1, 2, separator=""),
        lambda: FirstWord("a", 0),
        lambda: FirstWord("a", 3, 2),
        lambda: Case("title"),
        lambda: Starts(" "),
        lambda: Language("xx"),
        lambda: Readability(),
        lambda: Readability(3, 2),
        lambda: Readability(3, measure="fog"),
        lambda: Schema({"type": 3}),
        lambda: Every(),
        lambda: Every(Sentiment()),
        lambda: as_strict(Sentiment()),
        lambda: parse_reward("bullets:3"),
        lambda: parse_reward("bullets:3..3:x"),
        lambda: parse_reward("bullets:-3..3"),
        lambda: parse_reward("frequency:2..3"),
        lambda: parse_reward("frequency:a:2..3:x"),
        lambda: parse_reward("wrapped:a b c"),
        lambda: parse_reward("schema:nowhere.json"),
        lambda: parse_reward("strict:sentiment"),
        lambda: parse_reward("code:python"),
    ],
)
def test_bad_arguments_are_errors_when_built(build):
    with pytest.raises(ConfigurationError):
        build()


@pytest.mark.parametrize(
    ("spec", "kept", "broken"),
    [
        ("frequency:rain: it:1..1", "rain: it", "rain"),
        ("starts:Dear Ann", "dear Ann,", "Ann"),
        ("ends:Yours, Ann", "Yours, Ann", "Ann yours"),
        ("wrapped:<< >>", "<<a>>", "<a>"),
        ('wrapped:"', '"a"', "a"),
        ("case:lower", "a", "A"),
        ("bullets:1..", "- a", "a"),
        ("paragraphs:..1", "a", "a\n\nb"),
        ("parts:2..2:---", "a---b", "a"),
        ("parts:2..", "a***b", "a"),
        ("code", "x = 1", "x ="),
        ("language:en", "This is it, my friend", "C'est la vie, mon ami"),
        ("readability:60..", "The cat sat.", "Organisational complications."),
        ("readability:..6:grade", "The cat sat.", "Organisational complications."),
        ("strict:length:2..2", "a b", "a"),
    ],
)
def test_rules_as_words(spec, kept, broken):
    assert value_of(parse_reward(spec), kept) == 1.0
    assert value_of(parse_reward(spec), broken) < 1.0
    assert value_of(parse_reward(f"strict:{spec}"), broken) == 0.0


def test_a_schema_is_read_from_its_file(tmp_path):
    path = tmp_path / "person.json"
    path.write_text(json.dumps(PERSON))
    assert value_of(parse_reward(f"schema:{path}"), '{"name": 1, "age": 2}') == 1.0
    path.write_text("{")
    with pytest.raises(ConfigurationError, match=r"person\.json"):
        parse_reward(f"schema:{path}")


LONG = 100_000


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Elements("bullets", 1), "\n" * LONG),
        (Elements("numbered", 1), " \n" * LONG),
        (Elements("placeholders", 1), "[" * LONG),
        (Length(1, 2, unit="sentences"), "." * LONG + "x"),
        (Language("fr"), "_" * LONG + "@"),
        (instruction("detectable_format:title", {}), "<" * LONG),
        (instruction("detectable_format:title", {}), "<<" + "a" * LONG),
    ],
    ids=["bullets", "numbered", "placeholders", "sentences", "language", "title of brackets", "title without end"],
)
def test_a_rule_reads_a_text_in_linear_time(rule, text):
    # Patterns that tried again from inside what they had read were quadratic: these would take minutes each, or hours.
    assert 0.0 <= rule.grade_text(text) <= 1.0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<<a>>", True),
        ("x <<< a >>> y", True),
        ("<< >>", False),
        ("<<>>a", False),
        ("a>> <<", False),
        ("<<a\n>>", False),
        ("<< <<a>>", True),
        ("no\n<<b>>", True),
    ],
)
def test_a_title_stands_in_double_brackets_on_one_line(text, kept):
    assert (instruction("detectable_format:title", {}).grade_text(text) == 1.0) is kept
