# ruff: noqa: E501 - a line of a template is a line of the prompt
"""Chat templates of our own writing, each with the habits of a family of models."""

from __future__ import annotations

_TURNS = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As SmolLM2-135M: no tools, strings are added up, so that content that is none is an error.
NO_TOOLS = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# As Qwen2.5: arguments by tojson, so that JSON text would be encoded twice; results are turns of the user's.
TAGGED = """{% if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}

# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif m.tool_calls %}<|im_start|>assistant
{% if m.content %}{{ m.content }}
{% endif %}{% for call in m.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif not (tools and loop.first and m.role == 'system') %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As Qwen3: arguments as a mapping or as text, and no place for what is no string.
EITHER = TAGGED.replace(
    "{{ call.function.arguments | tojson }}",
    "{% if call.function.arguments is string %}{{ call.function.arguments }}"
    "{% else %}{{ call.function.arguments | tojson }}{% endif %}",
).replace("{{ m.content }}", "{% if m.content is string %}{{ m.content }}{% endif %}")

# As SmolLM2-1.7B: a list of calls within one tag.
LISTED = TAGGED.replace(
    "{% for call in m.tool_calls %}<tool_call>\n{", "<tool_call>[{% for call in m.tool_calls %}{"
).replace("}}}\n</tool_call>{% endfor %}", "}}}{% if not loop.last %}, {% endif %}{% endfor %}]</tool_call>")

# As Llama 3.x: bare JSON with "parameters", one call at most.
BARE = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}{% if m.tool_calls %}\
{% if m.tool_calls | length > 1 %}{{ raise_exception('only single tool-calls') }}{% endif %}<|im_start|>assistant
{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|im_end|>
{% else %}<|im_start|>{{ 'ipython' if m.role == 'tool' else m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As DeepSeek's: strings are added up, so that arguments must be JSON text.
AS_TEXT = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant
{% for call in m.tool_calls %}{{ '<tool_call>{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments \
+ '}</tool_call>' }}{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As Qwen3.5: calls are no JSON, and the system message has to be the first.
XML = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
{{ raise_exception('System message must be at the beginning') }}{% endif %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call><function={{ call.function.name }}>\
{% for k, v in call.function.arguments.items() %}<parameter={{ k }}>{{ v }}</parameter>{% endfor %}</function></tool_call>\
{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As Gemma 4: tools are told of, calls are no JSON and stand between control tokens.
MARKED = """{% if tools %}<|im_start|>system
{% for tool in tools %}declaration:{{ tool.function.name }}{description:{{ tool.function.description }}}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}<|endoftext|>call:{{ call.function.name }}{{ '{' }}\
{% for k, v in call.function.arguments.items() %}{{ k }}:{{ v }}{% endfor %}}<|endoftext|>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As LFM2: calls are written as Python's.
PYTHONIC = MARKED.replace("call:{{ call.function.name }}{{ '{' }}", "[{{ call.function.name }}(").replace(
    "{{ k }}:{{ v }}{% endfor %}}", '{{ k }}="{{ v }}"{% if not loop.last %}, {% endif %}{% endfor %})]'
)

# As DeepSeek-V3: no tools; past calls in a fenced block, whose arguments must be text.
FENCED = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% for call in m.tool_calls or [] %}\
{{ '<|endoftext|>function<|endoftext|>' + call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```' }}\
{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As Gemma's: no system message, and turns that alternate.
ALTERNATING = """{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# As SmolLM3's was reported to: tools are told of, past calls are dropped without a word.
FORGETFUL = (
    """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}"""
    + _TURNS
)

TEMPLATES = {
    "no tools": NO_TOOLS,
    "tagged": TAGGED,
    "either": EITHER,
    "listed": LISTED,
    "bare": BARE,
    "as text": AS_TEXT,
    "xml": XML,
    "marked": MARKED,
    "pythonic": PYTHONIC,
    "fenced": FENCED,
    "alternating": ALTERNATING,
    "forgetful": FORGETFUL,
}
NATIVE = ("tagged", "either", "listed", "bare", "as text")
