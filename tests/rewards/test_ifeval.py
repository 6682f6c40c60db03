"""IFEval's instruction types: a table of what keeps each, what breaks it, and what comes nearer and nearer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aisp.errors import ConfigurationError, RewardError
from aisp.jsonl import read_prompts
from aisp.records import Candidate
from aisp.rewards import as_strict
from aisp.rewards.ifeval import INSTRUCTIONS, IFEval, Row, instruction
from aisp.rewards.spec import parse_reward

AT_LEAST, LESS_THAN = {"relation": "at least"}, {"relation": "less than"}
ENGLISH = "It is a fine day and we go to the park to play together."

# Each: instruction, arguments, texts that come nearer and nearer (the last keeps it), others that keep it, that don't.
TABLE = [
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 3},
        ["no capitals", "ONE of them", "ONE and TWO", "ONE, TWO-THREE (FOUR)"],
        ["I can, I do, I will", "U.S.A. and NASA's 'AT&T'"],
        ["One Two Three", "ONE-TWO a-B"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 2},
        ["A B C D", "A B C", "A B", "A b c"],
        ["none"],
        ["YES. NO."],
    ),
    (
        "change_case:english_capital",
        {},
        [ENGLISH, ENGLISH.replace("fine day and we", "FINE DAY AND WE"), ENGLISH.upper()],
        [ENGLISH.upper() + " 1, 2!"],
        ["1234", "IL FAIT BEAU ET NOUS ALLONS AU PARC AVEC LES ENFANTS"],
    ),
    (
        "change_case:english_lowercase",
        {},
        [ENGLISH.upper(), ENGLISH.replace("fine day and we", "FINE DAY AND WE"), ENGLISH, ENGLISH.lower()],
        [],
        ["1234", "il fait beau et nous allons au parc avec les enfants"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Tell me why. "},
        ["Because", "Sure: tell me", "Sure: tell me why. Because", "Tell me because", "tell me WHY. Because"],
        ["\n Tell me why."],
        ["'Tell me why.' Because"],
    ),
    (
        "combination:two_responses",
        {},
        ["", "one", "one******two******three", "one\n******\ntwo"],
        ["******\none******two******", "one*******two"],
        ["one******one", "one************two", "one*****two"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 3},
        ["none", "[a]", "[a] and [b]", "[a] and [b c] and []"],
        ["[a][b][c][d]"],
        ["(a) (b) (c)", "[a [b [c]", "[a\n] [b\n] [c\n]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye", "Bye. PS more", "Bye. P.S. more"],
        ["p. s. more", "P.P.S. more"],
        ["P.S more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Bye", "PPS a", "P.P.S a"],
        ["p. p. s"],
        ["P.S."],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["xxx", "The answer", "My answer is", "My answer is maybe", "My answer is maybe."],
        ["Well. My answer is yes. Indeed"],
        ["my answer is no.", "My answer is: no."],
    ),
    (
        "detectable_format:json_format",
        {},
        ["Here", '{"a"', '{"a": [1, 2', '{"a": [1, 2]}'],
        ['```json\n{"a": 1}\n```', "```\n[]\n```", " 12 "],
        ['Here: {"a": 1}', "{'a': 1}"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 3},
        ["none", "Section 1\na", "Section 1\na\nSection 2\nb", "Section 1\na\nSection 2\nb\nSection 3\nc"],
        ["Section1Section2Section3", "Section 1 Section 1 Section 1 Section 1"],
        ["SECTION 1 SECTION 2 SECTION 3", "Section A Section B Section C"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["none", "* a", "* a\n- b"],
        ["Points:\n  * a\n\n\t*b", "---\n-a"],
        ["* a\n* b\n* c", "• a\n• b", "**a**\n**b**", "1. a\n2. b"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["none", "*a*", "*a* and *b c*"],
        ["**a** **b**", "*a* **b** *c*"],
        ["* * and * *", "*a\n* *b\n*"],
    ),
    (
        "detectable_format:title",
        {},
        ["A title", "<A title>", "<<A title>>"],
        ["a <<b>> c", "<<<a>>>"],
        ["<< >>", "<<a\nb>>", "<<>>"],
    ),
    (
        "keywords:existence",
        {"keywords": ["rain", "snow", "Hail Storm"]},
        ["sun", "rain", "rain and snow", "trains, SNOWMEN, and a hail storm"],
        [],
        ["rain, snow, hail"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rain", "snow"]},
        ["Rain and SNOW", "Snow", "sun"],
        ["trains and snowmen"],
        ["(rain)", "snow-white"],
    ),
    (
        "keywords:frequency",
        {**AT_LEAST, "keyword": "rain", "frequency": 3},
        ["sun", "rain", "Rain, rain", "rain trains RAIN"],
        ["rainrainrainrain"],
        ["ra in rain rain"],
    ),
    ("keywords:frequency", {**LESS_THAN, "keyword": "a", "frequency": 2}, ["aaaa", "aaa", "aa", "a"], ["b"], ["Aa"]),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "P", "let_frequency": 1},
        ["ppp", "pP", "p", "b"],
        [],
        ["Paul"],
    ),
    (
        "keywords:letter_frequency",
        {"let_relation": "at least", "letter": "!", "let_frequency": 2},
        ["", "!", "!!"],
        [],
        [],
    ),
    (
        "language:response_language",
        {"language": "de"},
        [
            ENGLISH,
            f"{ENGLISH} Das ist ein schöner Tag, und wir gehen gern.",
            "Das ist ein schöner Tag, und wir gehen gern.",
        ],
        ["12:30", "Siehe https://example.org/the-best-of-all-and-more-than-this hier, mein Freund."],
        ["Het is een mooie dag en we gaan naar het park."],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Rain"},
        ["a", "a\n\nb", "a\n\nb\n\nc", "a\n\nthe first rain\n\nc", "a\n\nthe rain\n\nc", 'a\n\n"rain\'s" it\n\nc'],
        ["a\n\nRAIN, so\n\nc\n\n"],
        ["a\n\nrainy\n\nc", "rain\n\nrain", "a\n\n\n\nrain\n\nc", "a\n\n*rain*\n\nc", "a\n\nrain\n\nc\n\nd"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 3},
        ["***", "a", "a***b", "a\n***\nb\n\n***\n\nc"],
        ["***a***b***c***"],
        ["a\n\nb\n\nc", "a***b***c***d", "a***b******c"],
    ),
    (
        "length_constraints:number_sentences",
        {**LESS_THAN, "num_sentences": 3},
        ["A! B! C! D!", "It is. Is it? So", "It is. Is it?"],
        ["Mr. Lee of the U.S. left, e.g. at 5 p.m. today", "one\ntwo\nthree"],
        ["1. a\n2. b"],
    ),
    (
        "length_constraints:number_words",
        {**AT_LEAST, "num_words": 4},
        ["", "one", "one two", "one two three", "one two-three four"],
        ["it's a day"],
        ["one , two ; three !"],
    ),
    ("punctuation:no_comma", {}, ["a,b,c,d", "a,b,c", "a,b", "a"], ["a; b"], [","]),
    (
        "startend:end_checker",
        {"end_phrase": "That is all. "},
        ["Yes", "all", "So that is all", 'So "that is ALL."'],
        ["That is all.\n"],
        ["That is all. Bye", "That is all"],
    ),
    ("startend:quotation", {}, ["a", '"a', '"a"'], [' "a" \n', '""'], ['"', "“a”", 'a "b"']),
]


@pytest.mark.parametrize(("name", "kwargs", "nearing", "kept", "broken"), TABLE)
def test_what_keeps_an_instruction(name, kwargs, nearing, kept, broken):
    row = Row([name], [kwargs])
    grades = [row.grade_text(text) for text in nearing]
    assert grades == sorted(set(grades))
    assert grades[-1] == 1.0
    assert [text for text in kept if row.grade_text(text) < 1.0] == []
    assert [text for text in broken if row.grade_text(text) == 1.0] == []
    assert row.grade_text(" \n") == 0.0


def test_the_table_has_every_instruction():
    assert {name for name, *_ in TABLE} == INSTRUCTIONS.keys()
    assert len(INSTRUCTIONS) == 25


ROWS = [Row([name], [kwargs]) for name, kwargs, *_ in TABLE]
WHOLE = Row([name for name, *_ in TABLE], [kwargs for _, kwargs, *_ in TABLE])


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.sampled_from("*<>[]\"',.! \nabcSP1") | st.characters(), max_size=80))
def test_any_text_has_a_grade_and_a_verdict(text):
    grades = [row.grade_text(text) for row in ROWS]
    assert all(0.0 <= grade <= 1.0 for grade in grades)
    assert WHOLE.grade_text(text) == pytest.approx(sum(grades) / len(grades))
    assert len(WHOLE.broken(text)) == sum(grade < 1.0 for grade in grades)
    score = as_strict(ROWS[0]).score([Candidate(messages=[], text=text)])[0]
    assert (score.value == 1.0) == (grades[0] == 1.0) == (score.comment is None)


TWO = {
    "key": 1,
    "prompt": "Two bullets, no comma.",
    "instruction_id_list": ["detectable_format:number_bullet_lists", "punctuation:no_comma"],
    "kwargs": [{"num_bullets": 2, "letter": None}, {}],
}
QUOTED = {"prompt": "Quote.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}


def ask(prompt, text, **options):
    return Candidate(messages=[{"role": "user", "content": prompt}], text=text, **options)


def test_a_row_is_the_mean_of_its_instructions_and_kept_where_all_are():
    row = Row(TWO["instruction_id_list"], TWO["kwargs"])
    near, kept = ask("", "- a, b"), ask("", "- a\n- b")
    assert [score.value for score in row.score([near, kept])] == [0.5, 1.0]
    assert [score.value for score in as_strict(row).score([near, kept])] == [0.0, 1.0]
    assert row.score([near])[0].comment == f"not kept: {', '.join(TWO['instruction_id_list'])}"
    assert row.score([kept])[0].comment is None


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (TWO, QUOTED, TWO)))
    return path


def test_one_reward_serves_a_file_of_prompts(file):
    prompts = read_prompts(file)
    candidates = [Candidate(messages=prompt, text='"- a"') for prompt in prompts[:2]]
    soft, strict = parse_reward(f"ifeval:{file}"), parse_reward(f"strict:ifeval:{file}")
    assert [score.value for score in soft.score(candidates)] == [0.5, 1.0]
    assert [score.value for score in strict.score(candidates)] == [0.0, 1.0]
    assert soft.fingerprint != strict.fingerprint
    assert soft.fingerprint == IFEval([TWO, QUOTED]).fingerprint != IFEval([TWO]).fingerprint
    assert soft.session().score(candidates)[0].parts == {"ifeval": 0.5}


def test_a_candidates_reference_is_its_row(file):
    reward = IFEval(file)
    assert reward.score([ask("Two bullets, no comma.", '"a"', reference=QUOTED)])[0].value == 1.0
    assert IFEval().score([ask("anything", '"a"', reference=QUOTED)])[0].value == 1.0


def test_the_last_user_message_is_the_prompt(file):
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Quote."}]
    assert IFEval(file).score([Candidate(messages=said, text='"a"')])[0].value == 1.0
    with pytest.raises(RewardError, match="no row"):
        IFEval(file).score([Candidate(messages=[*said, {"role": "user", "content": "Go on."}], text='"a"')])
    with pytest.raises(RewardError, match="no row"):
        IFEval(file).score([Candidate(messages=[], text="a")])
    assert IFEval(file, on_error="exclude").score([ask("Go on.", "a")])[0].error is not None


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("keywords:key_sentences", {}, "no instruction 'keywords:key_sentences'"),
        ("punctuation:no_comma", {"commas": 1}, "commas"),
        ("keywords:frequency", {"keyword": "a", "frequency": 2}, "relation"),
        ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "at most"}, "at most"),
        ("keywords:frequency", {"keyword": "a", "frequency": 0, "relation": "less than"}, "less than"),
        ("language:response_language", {"language": "xx"}, "xx"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
            "2",
        ),
    ],
)
def test_an_instruction_that_makes_no_sense_is_an_error(name, kwargs, message):
    with pytest.raises(ConfigurationError, match=message):
        instruction(name, kwargs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("{", "can't be read"),
        ('{"prompt": "a"}', "row 1 is not a row"),
        ("3", "row 1 is not a row"),
        (json.dumps({**QUOTED, "kwargs": []}), "row 1 is not a row"),
        (json.dumps({**QUOTED, "instruction_id_list": ["startend:quote"]}), "startend:quote"),
        (json.dumps(QUOTED) + "\n" + json.dumps({**TWO, "prompt": "Quote."}), "row 2"),
    ],
)
def test_a_file_that_holds_no_rows_is_an_error(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        parse_reward(f"ifeval:{path}")


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    for spec in ("ifeval", f"ifeval:{tmp_path / 'nowhere.jsonl'}"):
        with pytest.raises(ConfigurationError, match=r"ifeval:FILE|can't be read"):
            parse_reward(spec)
