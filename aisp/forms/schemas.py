"""What a caller may give as a schema, read into JSON Schema in one place: for formats, for tools, for every framework.

a class, a type, a dict, a wrapper of a provider's --read_schema--> NamedSchema --hold (aisp.forms.holding)--> grammar
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from aisp.engines.bounds import check_schema, resolve
from aisp.errors import ConfigurationError
from aisp.forms.formats import url_pattern

_VALUES = ("const", "enum", "default", "examples")  # hold values, which may look like schemas
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # hold schemas by name
_KEYWORDS = frozenset(
    {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "not", "if", "enum", "const", "items", "prefixItems"}
    | {"additionalProperties", "patternProperties", "required", "pattern", "format", "minimum", "maximum", "$defs"}
    | {"definitions", "propertyNames", "minItems", "maxItems", "minLength", "maxLength", "minProperties", "title"}
    | {"maxProperties", "multipleOf", "exclusiveMinimum", "exclusiveMaximum", "description", "$schema", "$id"}
    | {"uniqueItems", "contains", "dependentRequired", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"}
)
_INNER = ("schema", "parameters", "input_schema", "inputSchema")  # OpenAI's, Anthropic's, MCP's


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSchema:
    """A JSON schema with what it is called.

    Args:
        name: Of a tool or format.
        description: What it is for.
        schema: Draft 2020-12; references lead into its own `$defs` or stand as they were given.
    """

    name: str
    description: str = ""
    schema: dict[str, Any]


class SchemaWriter(GenerateJsonSchema):
    """pydantic's, which says besides what pydantic will ask of keys, URLs and decimals when it reads an answer."""

    def url_schema(self, schema: Any) -> dict[str, Any]:
        written: dict[str, Any] = super().url_schema(schema)
        return {**written, "pattern": url_pattern(tuple(schema.get("allowed_schemes") or ()))}

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        written = super().decimal_schema(schema)
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        whole = None if digits is None else max(digits - (places or 0), 1)
        fraction = (
            r"(\.[0-9]+)?" if places is None and digits is None else rf"(\.[0-9]{{1,{places}}})?" if places else ""
        )
        text = f"^-?{'[0-9]+' if whole is None else f'[0-9]{{1,{whole}}}'}{fraction}$"
        limits = [key for key in ("ge", "gt", "le", "lt", "multiple_of") if schema.get(key) is not None]
        number: dict[str, Any] = {"type": "number"}
        for part in written.get("anyOf", ()):
            if part.get("type") == "number":
                number = {**part}
        if digits is None and places is None:
            # Bounded, a number has no exponent, and so is never infinite.
            number = {"minimum": -1e15, "maximum": 1e15, **number}
            return {"anyOf": [number] if limits else [number, {"type": "string", "pattern": text}]}
        return {"type": "string", "pattern": text} if not limits else number

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        written: dict[str, Any] = super().dict_schema(schema)
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        patterns = {"integer": "^(0|-?[1-9][0-9]{0,8})$", "number": r"^-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"}
        patterns["boolean"] = "^(true|false)$"
        if "propertyNames" not in written and keys.get("type") in patterns:
            written["propertyNames"] = {"pattern": patterns[str(keys["type"])]}
        if "anyOf" in keys and "propertyNames" not in written:  # decimals
            written["propertyNames"] = {"pattern": patterns["number"]}
        return written


def read_schema(source: Any, name: str | None = None) -> NamedSchema:
    """Return the JSON schema of what a caller gave.

    Args:
        source: A pydantic class of either version, a TypedDict, a dataclass, an Enum, any other type that pydantic
            knows (`list[int]`); a JSON schema; or one in OpenAI's or Anthropic's wrapping: `{"name", "schema"}`,
            `{"name", "parameters"}`, `{"name", "input_schema"}`, `{"name", "inputSchema"}`,
            `{"type": "json_schema", "json_schema": ...}`,
            `{"type": "function", "function": ...}`.
        name: What to call it; None for what it calls itself.

    Raises:
        ConfigurationError: It is none of these, or it is too large to be held to.
    """
    named = _read_mapping(source) if isinstance(source, Mapping) else _read_type(source)
    check_schema(named.schema, f"the schema {name or named.name}")
    return named if name is None else replace(named, name=name)


def untitled(schema: Any) -> Any:
    """Return a JSON schema without titles, which pydantic gives to everything and which say what the name says."""
    return walk(schema, lambda own: {key: value for key, value in own.items() if key != "title"})


def made_strict(schema: Any) -> Any:
    """Return a JSON schema whose objects require all of their properties and have no others, as strict mode asks."""

    def strict(own: dict[str, Any]) -> dict[str, Any]:
        if isinstance(own.get("properties"), Mapping):
            own = {**own, "required": list(own["properties"]), "additionalProperties": False}
        return own

    return walk(schema, strict)


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON schema with definitions put where they are used, as prompts are easier to read; or as it is.

    A schema that leads into itself stays as it is, since what is inlined would have no end; so does one that would be
    four times as long.
    """
    if not any(key in schema for key in ("$defs", "definitions")):
        return dict(schema)
    budget = 4 * sum(1 for _ in _nodes(schema)) + 100
    spent = 0

    def put(value: Any, within: tuple[str, ...]) -> Any:
        nonlocal spent
        spent += 1
        if spent > budget:
            raise LookupError("too long")
        if isinstance(value, list):
            return [put(part, within) for part in value]
        if not isinstance(value, Mapping):
            return value
        reference = value.get("$ref")
        if isinstance(reference, str):
            if reference in within:
                raise LookupError("it leads into itself")
            target = put(resolve(schema, reference), (*within, reference))
            rest = {key: put_at(key, part, within) for key, part in value.items() if key != "$ref"}
            return {**target, **rest} if isinstance(target, Mapping) else target
        return {k: put_at(k, part, within) for k, part in value.items() if k not in ("$defs", "definitions")}

    def put_at(key: str, value: Any, within: tuple[str, ...]) -> Any:
        if key in _VALUES:
            return value
        if key in _NAMED and isinstance(value, Mapping):  # names may be those of keywords
            return {name: put(part, within) for name, part in value.items()}
        return put(value, within)

    try:
        done: dict[str, Any] = put(schema, ("#",))
    except (LookupError, RecursionError):
        return dict(schema)
    return done


def walk(schema: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """Change every schema within a schema, the innermost first."""
    if isinstance(schema, (list, tuple)):
        return [walk(part, change) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    done: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES:
            done[key] = value
        elif key in _NAMED and isinstance(value, Mapping):
            done[key] = {name: walk(part, change) for name, part in value.items()}
        else:
            done[key] = walk(value, change)
    return change(done)


def _nodes(value: Any) -> Any:
    yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _nodes(part)


def _read_mapping(source: Mapping[str, Any]) -> NamedSchema:
    for wrapper in ("json_schema", "function"):
        if isinstance(source.get(wrapper), Mapping) and source.get("type") == wrapper:
            return _read_mapping(source[wrapper])
    inner = next((key for key in _INNER if isinstance(source.get(key), (Mapping, type))), None)
    if inner is not None and not any(key in source for key in ("properties", "$ref", "anyOf", "enum", "items")):
        found = source[inner]
        named = _read_type(found) if isinstance(found, type) else NamedSchema(name="answer", schema=dict(found))
        schema = made_strict(named.schema) if source.get("strict") else named.schema
        return NamedSchema(
            name=str(source.get("name") or named.name),
            description=str(source.get("description") or named.description),
            schema=schema,
        )
    if source and not any(key in _KEYWORDS for key in source):
        raise ConfigurationError(
            f"the schema has the keys {', '.join(map(repr, source))}, none of which JSON Schema knows; expected a JSON "
            "schema, as {'type': 'object', 'properties': {...}}, or one as {'name': ..., 'schema': {...}}"
        )
    title, description = source.get("title"), source.get("description")
    return NamedSchema(
        name=title if isinstance(title, str) and title else "answer",
        description=description if isinstance(description, str) else "",
        schema=dict(source),
    )


def _read_type(source: Any) -> NamedSchema:
    try:
        if hasattr(source, "__get_validators__") and not isinstance(source, type(BaseModel)):  # pydantic 1
            schema = source.schema()
        elif isinstance(source, type) and issubclass(source, BaseModel):
            schema = source.model_json_schema(schema_generator=SchemaWriter)
        else:
            schema = TypeAdapter(source).json_schema(schema_generator=SchemaWriter)
    except (PydanticUserError, PydanticSchemaGenerationError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{source!r} can't be read as a schema: {error}; give a pydantic class, a TypedDict, a dataclass, an Enum, "
            "or a JSON schema"
        ) from error
    name = getattr(source, "__name__", None) or schema.get("title") or "answer"
    # pydantic puts a class that leads into itself behind a reference.
    target = schema.get("$ref")
    described = resolve(schema, target) if isinstance(target, str) else schema
    return NamedSchema(name=str(name), description=str(described.get("description", "")), schema=schema)
