"""The form of an answer: tools that it may or must call, JSON that it must be, and how models write and read both.

    tools, tool_choice, response_format --make_form--> Form --encode--> prompt tokens
                                                        |---grammar--> what decoding is held to
                                                        '---parse----> a candidate with calls and structure

Every framework's chat model is built on this; only how its users give tools and messages is the framework's.
"""

from __future__ import annotations

from aisp.forms.form import Form, ResponseFormat, make_form, read_format
from aisp.forms.tools import Tool, read_choice, read_tools

__all__ = ["Form", "ResponseFormat", "Tool", "make_form", "read_choice", "read_format", "read_tools"]
