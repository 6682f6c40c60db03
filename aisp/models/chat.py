"""Messages become prompt tokens through the tokenizer's own chat template; user text stays text.

A chat template writes control tokens (`<|im_start|>` and the like) between the messages. Text that spells one must
not become one, or a user could end their turn and write the system's. transformers encodes what the messages hold apart
from what the template writes. Since a tokenizer may bring its own methods and settings, that is put to the proof once
for each, with a message of all its control tokens, before it is trusted; and again for every prompt that spells one.

    messages --as_text--> text as content --template--> prompt --every message found in it?--> tokens
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from aisp.errors import AISPError, ConfigurationError, PromptError, UnsupportedModelError
from aisp.models.contents import as_blocks, as_text, find_lost, neutral, plain, strings
from aisp.records import Message

_ROLE = re.compile(r"[A-Za-z_][\w-]*")
_ANSWER = "Zq7 answer"
_GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}  # by the call
    | {"raise_exception", "strftime_now"}  # by transformers
)
_CALL_OPTIONS = frozenset({"add_generation_prompt", "continue_final_message", "documents"})


class ChatEncoder:
    """A tokenizer's chat template, made safe. Thread-safe.

    Args:
        tokenizer: A transformers tokenizer.
        name: Of the model, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._lock = threading.Lock()
        self._proven: set[str] = set()

    @property
    def supports_tools(self) -> bool:
        """Whether the template has a place for tools."""
        if not self._tokenizer.chat_template:
            return False
        return "tools" in _variables(self._template(tools=[{}]))

    def encode(self, messages: Sequence[Message], tools: Sequence[Any] | None = None, **options: Any) -> list[int]:
        """Return the prompt's token ids; see `LoadedModel.encode`."""
        if not self._tokenizer.chat_template:
            raise UnsupportedModelError(
                f"the tokenizer of {self._name} has no chat template, so messages can't become a prompt; choose a "
                "model tuned for chat, or set tokenizer.chat_template and give the tokenizer"
            )
        template = self._template(tools)
        self._check_options(template, tools, options)
        control = self._control_tokens(template)
        _check_messages(messages, control)
        told = [{**plain(message), "content": as_text(message)} for message in messages]
        functions, given = plain(list(tools or ())), plain(options)
        _check_keys([told, functions, given], control)
        with self._lock:
            if template not in self._proven:
                self._prove(template, control)
                self._proven.add(template)
            self._check_normalised([told, functions, given], control)
            try:
                return self._whole(told, functions, given, control)
            except PromptError:
                if any(message["content"] for message in told):
                    # Templates of models that see write the parts of a list, and nothing of a string.
                    with contextlib.suppress(PromptError):
                        return self._whole(as_blocks(told), functions, given, control)
                raise

    def _whole(
        self, messages: list[dict[str, Any]], tools: list[Any], options: Mapping[str, Any], control: Sequence[str]
    ) -> list[int]:
        """Return the prompt's tokens, of a prompt that holds every message and no control token of theirs.

        Raises:
            PromptError: The template leaves a message out, or makes a control token of its text.
        """
        ids = self._apply(messages, tools, **options)
        lost = find_lost(lambda changed: self._rendered(changed, tools, options), messages)
        if lost is not None:
            raise PromptError(
                f"the chat template of {self._name} leaves out {lost}, so the model would not hear of it; give it as a "
                "message of the user, or choose a model whose template has a place for it"
            )
        if any(token in text for text in strings([messages, tools, options]) for token in control):
            known = {self._tokenizer.convert_tokens_to_ids(token) for token in control}
            harmless = [neutral(part, control) for part in (messages, tools, dict(options))]
            expected = self._apply(harmless[0], harmless[1], **harmless[2])
            if [token for token in ids if token in known] != [token for token in expected if token in known]:
                raise PromptError(
                    f"the chat template of {self._name} makes control tokens of what a message spells, so that it "
                    "could write the system's turns; take them out of the message"
                )
        return ids

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Any], options: Mapping[str, Any]) -> str:
        settings = {"add_generation_prompt": not options.get("continue_final_message"), **options}
        return str(
            self._tokenizer.apply_chat_template(list(messages), tools=list(tools) or None, tokenize=False, **settings)
        )

    def end_token_id(self) -> int | None:
        """Return the token that the template ends an assistant's turn with, or None where it ends it with none."""
        if not self._tokenizer.chat_template:
            return None
        turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": _ANSWER}]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception:  # noqa: BLE001 - a template may object to anything; encode will say so when it is used
            return None
        behind = text.rpartition(_ANSWER)[2].lstrip() if _ANSWER in text else ""
        ids = self._tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
        return ids[0] if ids and ids[0] in self._tokenizer.added_tokens_decoder else None

    def _template(self, tools: Sequence[Any] | None) -> str:
        return str(self._tokenizer.get_chat_template(None, list(tools) if tools else None))

    def _control_tokens(self, template: str) -> tuple[str, ...]:
        """Return what must not come from user text: special tokens, and other added ones that the template names."""
        added = self._tokenizer.added_tokens_decoder.values()
        return tuple(t.content for t in added if t.special or (t.content in template and not t.content.isspace()))

    def _check_options(self, template: str, tools: Sequence[Any] | None, options: Mapping[str, Any]) -> None:
        known = _variables(template)
        unknown = sorted(set(options) - known - _CALL_OPTIONS)
        if unknown:
            free = sorted(known - _GIVEN - set(self._tokenizer.special_tokens_map))
            raise ConfigurationError(
                f"the chat template of {self._name} has no {', '.join(unknown)}; "
                f"it takes {', '.join(free) or 'nothing'}"
            )
        if tools and "tools" not in known:
            raise PromptError(
                f"the chat template of {self._name} has no place for tools, so the model would not hear of them; "
                "describe them in a system message, or choose a model whose template takes tools"
            )

    def _apply(self, messages: Sequence[Message], tools: Sequence[Any] | None, **options: Any) -> list[int]:
        if not options.get("continue_final_message"):
            options.setdefault("add_generation_prompt", True)
        try:
            ids = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                return_dict=False,
                sanitize_control_tokens=True,
                **options,
            )
        except AISPError:
            raise
        except Exception as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise PromptError(
                f"the chat template of {self._name} can't hold these messages (roles: {roles}): {error}. Templates "
                "often want user and assistant to take turns, the system message first, and text as content"
            ) from error
        return [int(token) for token in ids]

    def _prove(self, template: str, control: Sequence[str]) -> None:
        """Encode a message of all control tokens, and one of none: both must hold the same ones."""
        ids = {self._tokenizer.convert_tokens_to_ids(token) for token in control}
        counts = []
        for text in ("a b", "a" + " ".join(control) + "b" + "".join(control)):
            prompt = self._apply([{"role": "user", "content": text}], None)
            counts.append(sorted(token for token in prompt if token in ids))
        if counts[0] != counts[1]:
            forged = sorted({self._tokenizer.convert_ids_to_tokens(token) for token in counts[1]})
            raise UnsupportedModelError(
                f"the tokenizer of {self._name} ({type(self._tokenizer).__name__}) turns text in messages into control "
                f"tokens (of {', '.join(forged)}), so that users could write the system's turns; use the model's fast "
                "tokenizer, without code of its own"
            )
        literal = any(token in template for token in control)
        if literal and not counts[0]:
            raise UnsupportedModelError(
                f"the tokenizer of {self._name} takes the template's own control tokens apart (split_special_tokens is "
                f"{self._tokenizer.split_special_tokens}), so the model would see no turns; set "
                "tokenizer.split_special_tokens = False"
            )

    def _check_normalised(self, parts: Any, control: Sequence[str]) -> None:
        """Refuse text that is no control token as written, and becomes one when the tokenizer normalises it."""
        added = {t.content: i for i, t in self._tokenizer.added_tokens_decoder.items() if t.normalized}
        ids = {added[token] for token in control if token in added}
        if not ids:
            return
        for text in strings(parts):
            for token in control:
                text = text.replace(token, " ")
            found = ids.intersection(self._tokenizer(text, add_special_tokens=False)["input_ids"])
            if found:
                names = ", ".join(str(self._tokenizer.convert_ids_to_tokens(token)) for token in sorted(found))
                raise PromptError(
                    f"a message holds text that the tokenizer of {self._name} normalises to the control token {names}: "
                    f"{text[:60]!r}; remove it"
                )


@lru_cache(maxsize=64)
def _variables(template: str) -> frozenset[str]:
    """Return the names that a template reads and does not set."""
    import jinja2
    from jinja2 import meta

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)  # noqa: S701 - no HTML
    # transformers' own tag round what an assistant says, which jinja2 does not know.
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(plain)))
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(f"the chat template is no valid template: {error}; repair tokenizer.chat_template") from error


def _check_messages(messages: Sequence[Message], control: Sequence[str]) -> None:
    if not messages:
        raise PromptError("there are no messages; give at least one")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise PromptError(
                f"message {index} is a {type(message).__name__}; expected a mapping, "
                "as {'role': 'user', 'content': ...}"
            )
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role) or role in control:
            raise PromptError(
                f"message {index} has the role {role!r}; expected a word, as 'user', 'assistant' or 'system'"
            )


def _check_keys(value: Any, control: Sequence[str]) -> None:
    """Refuse control tokens in keys, which templates write out with tool calls and nothing sanitises."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            spelt = next((token for token in control if token in str(key)), None)
            if spelt is not None:
                raise PromptError(f"the key {str(key)[:60]!r} spells the control token {spelt}; rename it")
            _check_keys(inner, control)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keys(inner, control)
