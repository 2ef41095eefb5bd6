#!/usr/bin/env python3
"""Asks a running `bitnet serve` through the official `anthropic` client: what programs written for Anthropic rely on.

    pip install anthropic
    bitnet serve --port 8080 &
    python3 crossval/anthropic_client.py http://127.0.0.1:8080
"""

import json
import sys
import urllib.request

import anthropic

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
client = anthropic.Anthropic(base_url=url, api_key=sys.argv[2] if len(sys.argv) > 2 else "none", max_retries=0)
passed = 0


def check(what, condition):
    global passed
    if not condition:
        sys.exit(f"FAILED: {what}")
    passed += 1
    print(f"ok: {what}")


models = urllib.request.Request(url + "/v1/models", headers={"x-api-key": client.api_key})
model = json.load(urllib.request.urlopen(models))["data"][0]["id"]
story = [{"role": "user", "content": "Once upon a time"}]
ask = dict(model=model, messages=story, max_tokens=24, extra_body={"seed": 7, "temperature": 0.7})

# messages
whole = client.messages.create(**ask)
text = whole.content[0].text
check("messages: an answer", whole.type == "message" and whole.role == "assistant" and text)
check("messages: reason and usage", whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 24)
check("messages: the same seed, the same text", client.messages.create(**ask).content[0].text == text)
with client.messages.stream(**ask) as stream:
    streamed = "".join(stream.text_stream)
    final = stream.get_final_message()
check("messages: the stream is the same text", streamed == text == final.content[0].text)
check("messages: the stream ends with reason and usage",
      final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens)
raw = [event.type for event in client.messages.create(**ask, stream=True)]
check("messages: the order of events", raw[:2] == ["message_start", "content_block_start"]
      and raw[-3:] == ["content_block_stop", "message_delta", "message_stop"]
      and set(raw[2:-3]) == {"content_block_delta"})
word = text.split()[3]
stopped = client.messages.create(**ask, stop_sequences=["never said", word])
check("messages: stop_sequences", stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == word
      and word not in stopped.content[0].text)
blocks = client.messages.create(**{**ask, "system": [{"type": "text", "text": "A dragon."}], "messages": [
    {"role": "user", "content": [{"type": "text", "text": "Once"}]}, {"role": "assistant", "content": "upon"},
    {"role": "user", "content": "a time"}]})
check("messages: system and blocks", blocks.usage.output_tokens == 24)

# tools
weather = {"name": "weather", "description": "The weather of a city.", "input_schema": {
    "type": "object", "additionalProperties": False, "required": ["city", "days"],
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}
needed = dict(model=model, messages=[{"role": "user", "content": "Rain?"}], tools=[weather], max_tokens=100,
              extra_body={"seed": 5})
one = {"type": "any", "disable_parallel_tool_use": True}


def fits(block):
    return (block.type == "tool_use" and block.name == "weather" and block.input["city"] in ("Rome", "Oslo")
            and 1 <= block.input["days"] <= 9)


called = client.messages.create(**needed, tool_choice=one)
check("tools: a call parses", called.stop_reason == "tool_use" and fits(called.content[0]))
with client.messages.stream(**needed, tool_choice={"type": "tool", "name": "weather"}) as stream:
    final = stream.get_final_message()
check("tools: a streamed call parses", final.stop_reason == "tool_use" and fits(final.content[0]))
back = [*needed["messages"], {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in called.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": called.content[0].id, "content": "dry"}]}]
answer = client.messages.create(**{**needed, "messages": back, "max_tokens": 8})
check("tools: the result goes back", answer.usage.output_tokens > 0)
silent = client.messages.create(**{**needed, "max_tokens": 12}, tool_choice={"type": "none"})
check("tools: none", [b.type for b in silent.content] == ["text"])

# counting
count = client.messages.count_tokens(model=model, messages=back, tools=[weather]).input_tokens
usage = answer.usage
check("count_tokens: as the answer counts", count == usage.input_tokens + usage.cache_read_input_tokens)


# errors: the client's own classes
def raises(kind, word, **change):
    try:
        client.messages.create(**{**ask, **change})
    except kind as error:
        return error.body["type"] == "error" and word in error.body["error"]["message"]
    return False


check("errors: an unknown model is NotFoundError", raises(anthropic.NotFoundError, "claude", model="claude"))
check("errors: a wrong value is BadRequestError", raises(anthropic.BadRequestError, "temperature", extra_body={"temperature": 9}))
check("errors: images are refused by name", raises(anthropic.BadRequestError, "messages[0].content[0].type", messages=[
    {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]))
check("errors: too long is BadRequestError", raises(
    anthropic.BadRequestError, "do not fit", messages=[{"role": "user", "content": "word " * 200_000}]))
print(json.dumps({"passed": passed, "anthropic": anthropic.__version__}))
