"""Tools and structured output of the chat model."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NotRequired

import pydantic.v1
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from aisp.errors import ConfigurationError
from aisp.forms import make_form, read_choice, read_format
from aisp.forms.approximation import approximate
from aisp.forms.schemas import untitled
from aisp_langchain import AISPChatModel
from aisp_langchain.structured import StructuredOutputError
from aisp_langchain.tools import read_tools


@tool
def look(at: str, n: int = 1) -> str:
    """Look at something."""
    return at


@tool
def wait() -> str:
    """Wait."""
    return "done"


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="the question")
    punchline: str | None = None


class OldJoke(pydantic.v1.BaseModel):
    """A joke."""

    setup: str


class DictJoke(TypedDict):
    """A joke."""

    setup: str


class Branch(TypedDict):
    """A branch."""

    long: bool
    twigs: NotRequired[list["Branch"]]  # noqa: UP037 - it isn't there yet


class Leaf(TypedDict):
    """A leaf."""

    green: bool
    veins: NotRequired[Annotated[int, "how many"]]


CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "tree 樹"}}\n</tool_call>'


class TestReading:
    def test_tools_of_every_kind(self):
        def go(to: str) -> str:
            """Go somewhere."""
            return to

        tools = read_tools(
            [look, go, Joke, Joke.model_json_schema(), DictJoke, {"type": "function", "function": {"name": "x"}}][:4]
        )
        assert [one["function"]["name"] for one in tools] == ["look", "go", "Joke"]
        assert "title" not in json.dumps(tools)

    @pytest.mark.parametrize(("kind", "name"), [(Branch, "twigs"), (Leaf, "veins")])
    @pytest.mark.parametrize("strict", [None, True])
    def test_a_typeddict_that_core_can_not_read(self, kind, name, strict):
        (read,) = read_tools([kind], strict=strict)
        parameters = read["function"]["parameters"]
        properties = parameters.get("properties") or parameters["$defs"]["Branch"]["properties"]
        assert name in properties
        assert read["function"]["description"].startswith("A ")

    def test_a_tool_of_mcp_keeps_its_parameters(self):
        """It was bound without any."""
        schema = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
        (read,) = read_tools([{"name": "look", "description": "Look.", "inputSchema": schema}])
        assert read["function"]["parameters"] == schema

    @pytest.mark.parametrize(
        "tools",
        [
            [3],
            [{"type": "web_search"}],
            [look, {"name": "look", "description": "", "parameters": {"type": "object", "properties": {}}}],
        ],
    )
    def test_what_is_no_tool(self, tools):
        with pytest.raises(ConfigurationError):
            read_tools(tools)

    @pytest.mark.parametrize(
        ("given", "choice"),
        [
            (None, "auto"),
            ("auto", "auto"),
            ("none", "none"),
            ("any", "any"),
            ("required", "any"),
            (True, "any"),
            ("wait", "wait"),
            ({"type": "function", "function": {"name": "wait"}}, "wait"),
            ({"type": "tool", "name": "wait"}, "wait"),
            ({"type": "any"}, "any"),
            ({"type": "auto"}, "auto"),
        ],
    )
    def test_choices(self, given, choice):
        assert read_choice(given, read_tools([look, wait])) == choice

    @pytest.mark.parametrize(
        "given", ["jump", {"type": "function", "function": {"name": "jump"}}, {}, 3, False, ["look"]]
    )
    def test_unknown_choices(self, chat, given):
        with pytest.raises(ConfigurationError, match="tool_choice is"):
            chat().bind_tools([look, wait], tool_choice=given)
        with pytest.raises(ConfigurationError, match="no tools"):
            read_choice("any", ())

    def test_a_property_may_be_called_like_a_keyword(self):
        schema = {
            "type": "object",
            "title": "T",
            "properties": {
                "title": {"type": "string", "title": "Title"},
                "properties": {"type": "object", "properties": {"enum": {"type": "object", "properties": {}}}},
            },
        }
        plain = untitled(schema)
        assert list(plain["properties"]) == ["title", "properties"]
        assert "title" not in plain
        assert "title" not in plain["properties"]["title"]
        inner = approximate(schema)[0]["properties"]
        assert list(inner) == ["title", "properties"]
        assert inner["properties"]["properties"]["enum"]["additionalProperties"] is False

    def test_what_is_left_open(self):
        parts = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
        assert "additionalProperties" not in json.dumps(approximate(parts)[0])
        free = {"type": "object", "additionalProperties": {"type": "integer"}, "properties": {"a": {}}}
        assert approximate(free) == (free, [])
        assert approximate({"type": "object"}) == ({"type": "object"}, [])

    @pytest.mark.parametrize(
        "given",
        [
            {"type": "xml"},
            "json",
            {"type": "json_schema"},
            {"type": "regex"},
            {"type": "json_schema", "json_schema": {"name": "x"}},
        ],
    )
    def test_unknown_formats(self, given):
        with pytest.raises(ConfigurationError, match="response_format is"):
            read_format(given)


class TestCalls:
    def test_a_call_becomes_a_tool_call(self, chat, engine):
        engine.texts = [CALL]
        message = chat().bind_tools([look]).invoke("Where?")
        (call,) = message.tool_calls
        assert (call["name"], call["args"], call["type"]) == ("look", {"at": "tree 樹"}, "tool_call")
        assert message.content == ""
        assert message.response_metadata["finish_reason"] == "tool_calls"

    def test_streamed_calls(self, chat, engine):
        engine.texts = ["I look.\n" + CALL + CALL.replace("look", "wait")]
        chunks = list(chat().bind_tools([look, wait]).stream("Where?"))
        parts = [part for chunk in chunks for part in chunk.tool_call_chunks]
        first = parts[0]
        assert (first["name"], first["args"], first["index"]) == ("look", "", 0)
        assert first["id"]
        assert [part["name"] for part in parts].count("look") == 1
        assert all(part["id"] is None for part in parts[1:] if part["name"] is None)
        assert len([part for part in parts if part["index"] == 0]) > 2
        merged = sum(chunks[1:], chunks[0])
        assert [(call["name"], call["args"]) for call in merged.tool_calls] == [
            ("look", {"at": "tree 樹"}),
            ("wait", {"at": "tree 樹"}),
        ]
        assert len({call["id"] for call in merged.tool_calls}) == 2
        assert merged.content == "I look."

    def test_what_goes_wrong_is_an_invalid_call(self, chat, engine):
        engine.texts = [CALL[:40]]
        llm = chat().bind_tools([look])
        chunks = list(llm.stream("Where?"))
        for message in (llm.invoke("Where?"), sum(chunks[1:], chunks[0])):
            assert message.tool_calls == []
            (invalid,) = message.invalid_tool_calls
            assert (invalid["name"], invalid["type"]) == ("look", "invalid_tool_call")
            assert invalid["id"]
            assert message.content == ""

    def test_without_tools_nothing_is_read_as_a_call(self, chat, engine):
        engine.texts = [CALL]
        assert chat().invoke("Where?").content == CALL
        assert chat().bind_tools([look], tool_choice="none").invoke("Where?").tool_calls == []

    def test_rewards_see_the_calls(self, chat, engine):
        engine.texts = ["I don't know.", CALL, "<tool_call>oops"]
        seen: list[AIMessage] = []

        def calls(outputs: AIMessage) -> float:
            seen.append(outputs)
            return float(bool(outputs.tool_calls))

        message = chat(rewards=calls, budget=16).bind_tools([look]).invoke("Where?")
        assert message.tool_calls[0]["name"] == "look"
        assert {bool(one.tool_calls) for one in seen} == {True, False}
        assert any(one.invalid_tool_calls for one in seen)

    @pytest.mark.real
    @pytest.mark.parametrize("choice", ["any", "required", "look", True])
    def test_forced_calls_are_valid_on_any_model(self, tiny, choice):
        llm = AISPChatModel(model=tiny, seed=1, temperature=2.0, max_tokens=80)
        for message in llm.bind_tools([look], tool_choice=choice).batch(["Where?", "Why?", "你好"]):
            (call,) = message.tool_calls
            look.args_schema.model_validate(call["args"])
            assert message.invalid_tool_calls == []

    @pytest.mark.real
    def test_no_arguments(self, tiny):
        message = AISPChatModel(model=tiny, seed=1, max_tokens=60).bind_tools([wait], tool_choice="any").invoke("Hi")
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [("wait", {})]

    @pytest.mark.real
    def test_what_a_schema_spells_in_other_scripts(self, tiny):
        def pay(währung: Literal["złoty", "円", "руб."], n: int) -> str:
            """Pay."""
            return währung

        llm = AISPChatModel(model=tiny, seed=1, temperature=2.0, max_tokens=90)
        for message in llm.bind_tools([pay], tool_choice="any").batch(list("abcd")):
            (call,) = message.tool_calls
            assert call["args"]["währung"] in ("złoty", "円", "руб.")
            assert isinstance(call["args"]["n"], int)

    @pytest.mark.real
    def test_strings_without_a_limit_are_closed_in_time(self, tiny):
        llm = AISPChatModel(model=tiny, seed=1, temperature=3.0).bind_tools([look], tool_choice="look")
        for limit in (70, 75, 80, 95):
            message = llm.invoke("Where?", max_tokens=limit)
            look.args_schema.model_validate(message.tool_calls[0]["args"])
            assert message.usage_metadata["output_tokens"] <= limit
        with pytest.raises(ConfigurationError, match="raise max_tokens"):
            llm.invoke("Where?", max_tokens=20)

    @pytest.mark.real
    def test_parallel_calls(self, tiny):
        llm = AISPChatModel(model=tiny, seed=1, temperature=3.0, max_tokens=200)
        counts = {
            parallel: [
                len(m.tool_calls)
                for m in llm.bind_tools([wait], tool_choice="any", parallel_tool_calls=parallel).batch(list("abcdefgh"))
            ]
            for parallel in (True, False)
        }
        assert set(counts[False]) == {1}
        assert max(counts[True]) > 1

    def test_tools_are_counted(self, chat):
        llm = chat()
        messages = [HumanMessage("Hi")]
        alone, with_tools = (llm.get_num_tokens_from_messages(messages, tools) for tools in (None, [look]))
        assert with_tools > alone + 20
        assert llm.invoke("Hi").usage_metadata["input_tokens"] == alone
        assert llm.bind_tools([look]).invoke("Hi").usage_metadata["input_tokens"] == with_tools

    def test_a_schema_that_can_not_be_compiled_is_refused(self, tiny, monkeypatch):
        from aisp.engines import engine_for

        monkeypatch.setattr(engine_for(tiny), "prefill", lambda tokens: pytest.fail("the model was run"))
        impossible = {
            "name": "x",
            "description": "x",
            "parameters": {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]},
        }
        bound = AISPChatModel(model=tiny).bind_tools([impossible])
        for choice in ("any", "auto", "x"):
            with pytest.raises(ConfigurationError, match="can't be compiled"):
                bound.invoke("Hi", tool_choice=choice)
        given = {"type": "json_schema", "json_schema": {"name": "x", "schema": impossible["parameters"]}}
        with pytest.raises(ConfigurationError, match="can't be compiled"):
            AISPChatModel(model=tiny).invoke("Hi", response_format=given)

    def test_strict_makes_every_argument_required(self, chat):
        bound = chat().bind_tools([look], strict=True)
        assert isinstance(bound, RunnableBinding)
        assert bound.kwargs["tools"][0]["function"]["parameters"]["required"] == ["at", "n"]


@pytest.mark.real
class TestStructured:
    @pytest.fixture
    def llm(self, tiny):
        return AISPChatModel(model=tiny, seed=1, temperature=1.5, max_tokens=90)

    @pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
    @pytest.mark.parametrize("strict", [None, True, False])
    @pytest.mark.parametrize("schema", [Joke, OldJoke, DictJoke, Joke.model_json_schema()])
    def test_every_method_and_schema(self, llm, method, schema, strict):
        chain = llm.with_structured_output(schema, method=method, strict=strict)
        answers = [chain.invoke("Tell a joke."), list(chain.stream("Tell a joke."))[-1]]
        for answer in answers:
            if isinstance(schema, type) and schema is not DictJoke:
                assert isinstance(answer, schema)
            else:
                assert isinstance(answer["setup"], str)
                assert set(answer) <= {"setup", "punchline"}
        assert answers[0] == answers[1]

    @pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
    async def test_async_and_raw(self, llm, method):
        answer = await llm.with_structured_output(Joke, method=method, include_raw=True).ainvoke("Tell a joke.")
        assert isinstance(answer["raw"], AIMessage)
        assert isinstance(answer["parsed"], Joke)
        assert answer["parsing_error"] is None

    @pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
    @pytest.mark.parametrize("schema", [Joke, OldJoke, DictJoke, Joke.model_json_schema()])
    def test_raw_and_parsed_of_every_schema(self, chat, engine, method, schema):
        written = '{"setup": "why"}'
        call = f'<tool_call>{{"name": "{getattr(schema, "__name__", "Joke")}", "arguments": {written}}}</tool_call>'
        engine.texts = [call if method == "function_calling" else written]
        chain = chat().with_structured_output(schema, method=method, include_raw=True)
        for answer in (chain.invoke("Tell a joke."), list(chain.stream("Tell a joke."))):
            whole = answer if isinstance(answer, dict) else {key: part for one in answer for key, part in one.items()}
            parsed = whole["parsed"]
            assert (parsed["setup"] if isinstance(parsed, dict) else parsed.setup) == "why"
            assert whole["parsing_error"] is None
            assert isinstance(whole["raw"], AIMessage)

    @pytest.mark.parametrize("method", ["json_schema", "json_mode"])
    def test_raw_holds_what_could_not_be_parsed(self, chat, engine, method):
        engine.texts = ['{"setup": 3}']
        answer = chat().with_structured_output(Joke, method=method, include_raw=True).invoke("Tell a joke.")
        assert answer["parsed"] is None
        assert "setup" in str(answer["parsing_error"])

    @pytest.mark.parametrize("include_raw", [True, False])
    def test_options_of_a_call_reach_the_model(self, chat, include_raw):
        """With include_raw they did nothing, unknown ones neither."""
        chain = chat().with_structured_output(Joke, include_raw=include_raw)
        with pytest.raises(ConfigurationError, match="bugdet"):
            chain.invoke("Tell a joke.", bugdet=2)

    def test_options_of_a_raw_call_count(self, chat, engine):
        engine.texts = ['{"setup": "why"}']
        chain = chat().with_structured_output(Joke, include_raw=True)
        told = chain.invoke("Tell a joke.", budget=4, rewards=lambda text: 1.0)["raw"].response_metadata["aisp"]
        assert (told["budget"], told["reward"]) == (4, 1.0)

    @pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
    @pytest.mark.parametrize("schema", [Joke, DictJoke, Joke.model_json_schema()])
    def test_what_was_cut_is_never_an_object(self, chat, engine, method, schema):
        """A dict's half came back as if it were whole."""
        call = f'<tool_call>{{"name": "{getattr(schema, "__name__", "Joke")}", "arguments": {{"setup": "wh'
        engine.texts = [call if method == "function_calling" else '{"setup": "why", "punchl']
        chain = chat().with_structured_output(schema, method=method)
        with pytest.raises(StructuredOutputError) as raised:
            chain.invoke("Tell a joke.")
        assert raised.value.finish_reason == "stop"
        with pytest.raises(StructuredOutputError, match="stop string"):
            list(chain.stream("Tell a joke."))
        raw = chat().with_structured_output(schema, method=method, include_raw=True).invoke("Tell a joke.")
        assert raw["parsed"] is None
        assert isinstance(raw["parsing_error"], StructuredOutputError)

    @pytest.mark.parametrize(
        ("schema", "written", "expected"),
        [
            (Literal["oak", "elm"], '"oak"', "oak"),
            (list[int], "[1, 2]", [1, 2]),
            ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
            ({"title": "T", "enum": ["x", "y"]}, '"x"', "x"),
            ({"name": "t", "strict": True, "schema": DictJoke.__annotations__ and {"type": "string"}}, '"x"', "x"),
        ],
    )
    @pytest.mark.parametrize("method", ["function_calling", "json_schema"])
    def test_answers_that_are_no_objects(self, chat, engine, method, schema, written, expected):
        chain = chat().with_structured_output(schema, method=method)
        name = chain.steps[1].tool
        engine.texts = [
            f'<tool_call>{{"name": "{name}", "arguments": {{"value": {written}}}}}</tool_call>' if name else written
        ]
        assert chain.invoke("Which?") == expected

    @pytest.mark.parametrize(
        ("schema", "written"),
        [
            (Branch, '{"long": true, "twigs": [{"long": false}]}'),
            (Leaf, '{"green": true}'),
            ({"title": "T", "type": ["boolean", "null"]}, "null"),
        ],
    )
    def test_what_core_can_not_read_is_no_error_of_its_tracing(self, chat, engine, schema, written):
        """Core reads the schema at every call, and failed."""
        engine.texts = [written]
        assert chat().with_structured_output(schema).invoke("Which?") == json.loads(written)

    def test_a_list_that_leads_into_itself_may_be_an_argument(self, llm):
        """ "#" meant the arguments that the list was put into."""
        schema = {"title": "Nest", "type": "array", "items": {"$ref": "#"}, "maxItems": 1}
        found = llm.with_structured_output(schema, method="function_calling").invoke("Nest.")
        while found:
            (found,) = found
        assert found == []

    def test_the_schema_is_told_of_or_not(self, chat, engine, tiny):
        for method, told in (("json_schema", True), ("json_mode", False)):
            engine.texts = ['{"setup": "why"}']
            chat().with_structured_output(Joke, method=method).invoke("Tell a joke.")
            assert ("the question" in tiny.tokenizer.decode(engine.prompts[-1])) == told

    def test_json_mode_without_a_schema(self, llm):
        assert isinstance(llm.with_structured_output(None, method="json_mode").invoke("Say JSON."), dict)

    def test_what_makes_no_sense(self, llm):
        with pytest.raises(ConfigurationError, match="method is"):
            llm.with_structured_output(Joke, method="xml")
        with pytest.raises(ConfigurationError, match="schema is None"):
            llm.with_structured_output(None)

    @pytest.mark.parametrize(
        ("given", "fits"),
        [
            ({"type": "regex", "regex": "[0-9]{2}/[0-9]{2}"}, lambda text: len(text) == 5 and text[2] == "/"),
            ({"type": "grammar", "grammar": 'start: "oak" | "elm"'}, lambda text: text in ("oak", "elm")),
            ({"type": "json_object"}, lambda text: isinstance(json.loads(text), dict)),
            ({"type": "text"}, lambda text: isinstance(text, str)),
        ],
    )
    def test_formats_of_a_call(self, llm, given, fits):
        assert fits(llm.invoke("Hi", response_format=given).content)

    def test_tools_and_a_format_together(self, llm):
        given = {"type": "json_schema", "json_schema": {"name": "Joke", "schema": Joke.model_json_schema()}}
        bound = llm.bind_tools([wait], response_format=given).bind(temperature=6.0)
        for message in bound.batch([f"Hi {i}" for i in range(12)]):  # either a call or a joke, and nothing else
            if message.tool_calls:
                assert [call["name"] for call in message.tool_calls] == ["wait"] * len(message.tool_calls)
            else:
                assert Joke.model_validate_json(message.content)
        with pytest.raises(ConfigurationError, match="regex"):
            llm.bind_tools([wait], response_format={"type": "regex", "regex": "a"}).invoke("Hi")

    def test_rewards_see_the_structure(self, tiny):
        seen: list[Any] = []

        def setup_length(structure: Any) -> float:
            seen.append(structure)
            return -float(len(structure["setup"]))

        llm = AISPChatModel(model=tiny, seed=1, rewards=setup_length, budget=6, max_tokens=60)
        answer = llm.with_structured_output(Joke).invoke("Tell a joke.")
        assert len(answer.setup) == min(len(one["setup"]) for one in seen)


def test_forms_choose_how_many_calls():
    assert make_form(read_tools([look])).parallel
    assert not make_form(read_tools([look]), tool_choice="any").parallel
    assert make_form(read_tools([look]), tool_choice="any", parallel_tool_calls=True).parallel
