"""Schemas that decoding is held to: what is drawn follows them, what can't be held is named, nothing crashes."""

from __future__ import annotations

import datetime
import decimal
import ipaddress
import json
import pathlib
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import (
    UUID1,
    UUID4,
    AnyUrl,
    Base64Str,
    BaseModel,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    create_model,
)
from typing_extensions import TypedDict

from aisp.engines import engine_for
from aisp.engines.grammar import compile_grammar
from aisp.errors import ConfigurationError
from aisp.forms import make_form, read_tools
from aisp.forms.grammars import forced_grammar, json_grammar
from aisp.forms.holding import SchemaWarning, hold, violation
from aisp.forms.schemas import inlined, made_strict, read_schema
from aisp.forms.tools import TAGGED
from aisp.records import Limits, Proposal, Sampling

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    """A tree."""

    leaf: bool
    kids: list[Tree] = Field(default_factory=list, max_length=2)


class Box(BaseModel, Generic[T]):
    content: T


class Cat(BaseModel):
    kind: Literal["cat"]
    purrs: bool


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Point(TypedDict):
    x: int


@dataclass
class Pair:
    left: bool
    right: bool


KINDS: dict[str, Any] = {
    "set": set[Literal["x", "y"]],
    "frozenset of numbers": frozenset[bool],
    "tuple": tuple[bool, Literal["a"]],
    "long tuple": tuple[bool, ...],
    "UUID": uuid.UUID,
    "UUID1": UUID1,
    "UUID4": UUID4,
    "path": pathlib.Path,
    "secret": SecretStr,
    "bytes": bytes,
    "base64": Base64Str,
    "keys": dict[Literal["x", "y"], bool],
    "keys of an enum": dict[Colour, bool],
    "whole keys": dict[int, bool],
    "keys that are dates": dict[datetime.date, bool],
    "http": HttpUrl,
    "any URL": AnyUrl,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "decimal": decimal.Decimal,
    "price": Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)],
    "positive decimal": Annotated[decimal.Decimal, Field(gt=0)],
    "union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "64 bits": Annotated[int, Field(ge=-(2**63), le=2**63 - 1)],
    "unsigned": Annotated[int, Field(ge=0, le=2**64 - 1)],
    "optional": bool | None,
    "generic": Box[Box[bool]],
    "enum": Colour,
    "tree": Tree,
    "network": ipaddress.IPv4Network,
    "interface": ipaddress.IPv4Interface,
    "address": ipaddress.IPv4Address,
    "typed dict": Point,
    "dataclass": Pair,
    "alias": create_model("Aliased", inner=(bool, Field(alias="in-ner"))),
}


@pytest.fixture(scope="module")
def engine(tiny):
    return engine_for(tiny)


def drawn(engine, source, max_tokens=64, rows=3):
    proposals = [Proposal(seed=seed, sampling=Sampling(temperature=1.5), grammar=source) for seed in range(rows)]
    return [r.text for r in engine.rollout(engine.prefill((5, 6, 7)), proposals, Limits(max_tokens=max_tokens))]


@pytest.mark.filterwarnings("ignore::aisp.forms.holding.SchemaWarning")
@pytest.mark.parametrize("name", list(KINDS))
def test_what_is_drawn_for_a_type_is_an_object_of_it(engine, name):
    """The model's weights are random, so that it writes whatever the grammar lets through."""
    adapter = TypeAdapter(KINDS[name])
    for text in drawn(engine, json_grammar(read_schema(KINDS[name]).schema)):
        adapter.validate_json(text)


class TestReading:
    one: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}  # noqa: RUF012

    @pytest.mark.parametrize("key", ["schema", "parameters", "input_schema", "inputSchema"])
    def test_wrappers_of_providers_are_taken_off(self, key):
        read = read_schema({"name": "t", "description": "d", key: self.one})
        assert (read.name, read.description, read.schema) == ("t", "d", self.one)
        whole = {"type": "json_schema", "json_schema": {"name": "t", "schema": self.one}}
        assert read_schema(whole).schema == self.one

    def test_what_no_schema_says_is_refused(self):
        with pytest.raises(ConfigurationError, match="'foo'"):
            read_schema({"foo": 1})
        with pytest.raises(ConfigurationError, match="can't be read as a schema"):
            read_schema(3)

    def test_a_class_that_leads_into_itself_keeps_its_reference(self):
        assert "$defs" in inlined(read_schema(Tree).schema)
        assert "$defs" not in inlined(read_schema(Box[Box[bool]]).schema)

    def test_properties_may_be_called_as_keywords_are(self):
        """A property called "definitions" was taken for one, and its values for references."""
        schema = {
            "type": "object",
            "properties": {"definitions": {"$ref": "#/$defs/X"}, "$defs": {"enum": [{"$ref": "#/$defs/X"}]}},
            "$defs": {"X": {"const": "k"}},
        }
        properties = inlined(schema)["properties"]
        assert properties == {"definitions": {"const": "k"}, "$defs": {"enum": [{"$ref": "#/$defs/X"}]}}

    def test_types_in_capitals_are_types(self, recwarn):
        """Gemini's schemas allowed anything."""
        held = hold({"type": "OBJECT", "properties": {"a": {"type": "BOOLEAN"}}}, "the schema")
        assert held.schema == {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "additionalProperties": False,
        }
        assert not recwarn.list

    def test_strict_requires_every_property_at_every_depth(self):
        schema = {"properties": {"a": {"properties": {"b": {}}}}}
        strict = made_strict(schema)
        assert strict["required"] == ["a"]
        assert strict["properties"]["a"]["required"] == ["b"]

    def test_a_class_may_be_a_response_format(self):
        form = make_form(response_format=Cat)
        assert form.response is not None
        assert form.response.source["properties"].keys() == {"kind", "purrs"}


class TestReferences:
    def test_in_a_tool_they_mean_the_tools_own_schema(self, engine):
        """They meant the call: {"v", "next": {"name", "arguments"}}."""
        point = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
        pair = {"type": "object", "properties": {"a": point, "b": {"$ref": "#/properties/a"}}, "required": ["a", "b"]}
        itself = {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#"}},
            "required": ["v"],
        }
        for parameters in (pair, itself):
            tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
            for text in drawn(engine, forced_grammar(read_tools([tool]), TAGGED, parallel=False), 120):
                call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
                assert violation(call["arguments"], parameters) is None

    def test_one_that_leads_nowhere_is_named(self):
        with pytest.warns(SchemaWarning, match=r"\$ref 'https://x.y/z'.*outside the schema"):
            held = hold({"properties": {"a": {"$ref": "https://x.y/z"}}}, "the tool far")
        assert held.schema["properties"]["a"] == {}

    def test_anchors_and_names_with_slashes_are_found(self):
        schema = {
            "$defs": {"a/b": {"$anchor": "q", "type": "integer"}},
            "properties": {"one": {"$ref": "#q"}, "two": {"$ref": "#/$defs/a~1b"}},
        }
        held = hold(schema, "the schema").schema
        for name in ("one", "two"):
            assert held["$defs"][held["properties"][name]["$ref"].removeprefix("#/$defs/")]["type"] == "integer"

    def test_a_schema_within_is_found_by_its_id(self):
        schema = {
            "$defs": {"q": {"$id": "https://x.y/q", "type": "integer"}},
            "properties": {"a": {"$ref": "https://x.y/q"}},
        }
        held = hold(schema, "the schema").schema
        assert held["$defs"][held["properties"]["a"]["$ref"].removeprefix("#/$defs/")] == {"type": "integer"}

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
            {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}},
            },
        ],
    )
    def test_what_requires_itself_has_no_value(self, schema):
        """Decoding stopped behind the first brace, and the error spoke of a stop string."""
        assert hold(schema, "the schema").impossible is not None

    def test_what_has_no_end_is_left_out_where_it_may_be(self, engine):
        endless = {"type": "object", "properties": {"n": {"$ref": "#/$defs/a"}}, "required": ["n"]}
        schema = {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}, "n": {"$ref": "#/$defs/a"}},
            "required": ["ok"],
            "$defs": {"a": endless},
        }
        for text in drawn(engine, json_grammar(schema), 60):
            assert json.loads(text).keys() == {"ok"}

    def test_what_leads_only_to_itself_allows_anything(self):
        with pytest.warns(SchemaWarning, match="leads to itself alone"):
            held = hold({"$defs": {"a": {"$ref": "#/$defs/a"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}, "loop")
        assert held.schema["$defs"]["a"] == {}


LEFT_OUT = {
    "minProperties": {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 2},
    "uniqueItems": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    "not": {"type": "string", "not": {"const": ""}},
    "pattern": {"type": "string", "pattern": "^(?!_)[a-z]+$"},
    "if": {"type": "object", "if": {}, "then": {}},
    "contains": {"type": "array", "contains": {"const": 1}},
    "multipleOf": {"type": "integer", "multipleOf": 999_983},
    "oneOf": {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]},
}


@pytest.mark.parametrize("keyword", list(LEFT_OUT))
def test_what_can_not_be_held_is_named_with_its_tool_and_its_place(keyword):
    with pytest.warns(SchemaWarning, match=rf"the tool put_{keyword}, .*#/properties/here: {keyword}"):
        held = hold({"type": "object", "properties": {"here": LEFT_OUT[keyword]}}, f"the tool put_{keyword}")
    assert [part.where for part in held.unheld][:1] == ["#/properties/here"]
    assert held.impossible is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "path"},
        {"type": "string", "format": "no-such-format", "contentEncoding": "x"},
        {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "array", "uniqueItems": False},
        {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        {"type": "object", "propertyNames": {"enum": ["a"]}, "additionalProperties": {"type": "boolean"}},
        {"minimum": 3, "exclusiveMinimum": True, "type": "integer"},
    ],
)
def test_notes_and_what_is_said_in_other_words_need_no_warning(schema, recwarn):
    held = hold({"type": "object", "properties": {"here": schema}}, "the schema")
    assert held.unheld == ()
    assert not recwarn.list


def test_nothing_is_added_beside_unions():
    parts = {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]}
    assert "additionalProperties" not in json.dumps(hold(parts, "the schema").schema)
    extended = {
        "$defs": {"Base": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
        "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}],
    }
    assert hold(extended, "the schema").impossible is None


def test_sets_of_required_names_leave_the_object_closed():
    click = {
        "type": "object",
        "properties": {"index": {"type": "integer"}, "x": {"type": "integer"}},
        "anyOf": [{"required": ["index"]}, {"required": ["x"]}],
    }
    assert hold(click, "the schema").schema["additionalProperties"] is False


def test_an_object_is_said_where_it_is_implied():
    assert hold({"properties": {"a": {}}}, "the schema").schema["type"] == "object"
    assert hold({"required": ["z"], "properties": {"a": {}}}, "the schema").impossible is None


class TestTools:
    @staticmethod
    def tool(name: str, **parameters: Any) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}

    def test_one_that_nothing_follows_is_named_and_the_others_stay(self):
        good = self.tool("good", properties={"a": {"type": "boolean"}})
        bad = self.tool("bad", properties={"a": {"enum": []}}, required=["a"])
        with pytest.warns(SchemaWarning, match="the tool bad can't be compiled.*it can't be called"):
            grammar = forced_grammar(read_tools([good, bad]), TAGGED, parallel=False)
        assert '"good"' in grammar
        assert '"bad"' not in grammar
        with pytest.raises(ConfigurationError, match="the tool bad can't be compiled"):
            forced_grammar(read_tools([bad]), TAGGED, parallel=False)


def chain(length: int) -> dict[str, Any]:
    """Return a flat schema of references that lead into each other; 1,500 ended the process."""
    links = {
        f"a{i}": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": f"#/$defs/a{i + 1}"}}
        for i in range(length)
    }
    return {"$defs": {**links, f"a{length}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


class TestBounds:
    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            (chain(1_500), "references 1,50"),
            (chain(1_000), "limit is 300"),
            (nested(5_000), "is nested 101; the limit is 100"),
            ({"enum": list(range(30_000))}, "enum"),
            ({"type": "string", "pattern": "(a|b)" * 20_000}, "text of length 100,000"),
            ({"type": "array", "minItems": 10**9}, "minItems"),
            ({"anyOf": [{"const": i} for i in range(40_000)]}, "more parts"),
        ],
        ids=["chain", "shorter chain", "nested", "enum", "pattern", "minItems", "anyOf"],
    )
    def test_what_would_end_the_process_is_refused_with_the_limit(self, tiny, schema, said):
        for attempt in (
            lambda: make_form(response_format={"type": "json_object", "schema": schema}),
            lambda: json_grammar(schema),
            lambda: hold(schema, "the tool deep"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                attempt()

    def test_the_tool_is_named(self):
        tool = {"type": "function", "function": {"name": "deep", "parameters": chain(1_500)}}
        with pytest.raises(ConfigurationError, match="the tool deep at"):
            forced_grammar(read_tools([tool]), TAGGED, parallel=False)

    @pytest.mark.parametrize(
        "source",
        [
            "start: %json " + json.dumps(chain(1_500)),
            'start: %json {"const": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(5_000)) + 'a5000: "x"',
            "start: " + "(" * 5_000 + '"a"' + ")" * 5_000,
            "start: /" + "(" * 5_000 + "a" + ")" * 5_000 + "/",
        ],
        ids=["chain", "value", "rules", "brackets", "pattern"],
    )
    def test_a_grammar_of_ones_own_is_bounded_too(self, tiny, source):
        with pytest.raises(ConfigurationError, match=r"the limit is"):
            compile_grammar(tiny.tokenizer, source, tiny.eos_token_ids)

    def test_long_chains_below_the_limit_are_held(self, tiny):
        compile_grammar(tiny.tokenizer, json_grammar(chain(250)), tiny.eos_token_ids)
