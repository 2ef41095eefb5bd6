#!/usr/bin/env python3
"""Renders the shared chat templates with Jinja2 as transformers configures it (utils/chat_template_utils.py) and writes
the expected texts of crates/bitnet-models/tests/chat_templates.rs. Needs PyPI jinja2 (made with 3.1.6).

usage: python3 crossval/render_templates.py ../shared/data/chat-templates
"""

import json
import pathlib
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = pathlib.Path(__file__).parent.parent / "crates/bitnet-models/tests/data/chat-templates.json"


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def message(role, content, **more):
    return {"role": role, "content": content, **more}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather at a place & time, <now> if 'unset'",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 3, "scale": 1.5}},
                "required": [],
            },
        },
    },
    {"type": "function", "function": {"name": "uhrzeit", "description": "Zeit für „jetzt“", "parameters": {}}},
]
CALL = {"id": "abcdefghi", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2, "exact": True}}}

USER = [message("user", "  Hi <there> & 'you'?\n")]
CHAT = [
    message("system", " Be brief. "),
    message("user", "What is 1+1?"),
    message("assistant", "2\n"),
    message("user", "Größer? 🙂"),
]
TOOL_CHAT = [
    message("user", "Weather?"),
    message("assistant", "", tool_calls=[CALL]),
    message("tool", "sunny", tool_call_id="abcdefghi"),
    message("assistant", "It is sunny."),
    message("user", "Thanks"),
]
TWO_USERS = [message("user", "a"), message("user", "b")]
# Fixed, so that the texts do not depend on the day.
DATE = {"date_string": "26 Jul 2024"}

CASES = [
    (USER, True, DATE),
    (USER, False, DATE),
    (CHAT, True, DATE),
    (CHAT, False, DATE),
    (CHAT[1:], True, DATE),
    (TWO_USERS, True, DATE),
    (USER, True, {**DATE, "tools": TOOLS}),
    (CHAT, True, {**DATE, "tools": TOOLS, "tools_in_user_message": False}),
    (TOOL_CHAT, True, {**DATE, "tools": TOOLS}),
    (TOOL_CHAT, True, DATE),
    (TOOL_CHAT[:2], False, {**DATE, "builtin_tools": ["weather", "code_interpreter"]}),
]


def main():
    cases = []
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        template = environment().from_string(path.read_text())
        for messages, prompt, extra in CASES:
            case = {"template": path.name, "messages": messages, "generation_prompt": prompt, "extra": extra}
            try:
                case["expected"] = template.render(
                    messages=messages, add_generation_prompt=prompt, bos_token="<bos>", eos_token="<eos>", **extra
                )
            except Exception as e:  # noqa: BLE001 - any refusal is the expected outcome
                case["refused"] = f"{type(e).__name__}: {e}"
            cases.append(case)
    OUT.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
    print(len(cases), "cases,", sum("refused" in c for c in cases), "refused")


main()
