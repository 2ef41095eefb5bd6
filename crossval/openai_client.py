#!/usr/bin/env python3
"""Asks a running `bitnet serve` through the official `openai` client: what programs written for OpenAI rely on.

    pip install openai
    bitnet serve --port 8080 &
    python3 crossval/openai_client.py http://127.0.0.1:8080/v1
"""

import json
import sys
import urllib.request
from typing import Literal

import openai
import pydantic

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
client = openai.OpenAI(base_url=url, api_key=sys.argv[2] if len(sys.argv) > 2 else "none", max_retries=0)
passed = 0


def check(what, condition):
    global passed
    if not condition:
        sys.exit(f"FAILED: {what}")
    passed += 1
    print(f"ok: {what}")


model = client.models.list().data[0].id
check("models.list and models.retrieve", client.models.retrieve(model).id == model)
story = [{"role": "user", "content": "Once upon a time"}]

# chat
ask = dict(model=model, messages=story, max_completion_tokens=24, seed=7, temperature=0.7)
whole = client.chat.completions.create(**ask)
text = whole.choices[0].message.content
check("chat: an answer", whole.object == "chat.completion" and text and whole.choices[0].message.role == "assistant")
check("chat: usage", whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens)
check("chat: the same seed, the same text", client.chat.completions.create(**ask).choices[0].message.content == text)

chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
check("chat: the stream is the same text", streamed == text)
check("chat: the stream ends with the usage", chunks[-1].usage == whole.usage and not chunks[-1].choices)
check("chat: the reason stands in the last chunk", chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason)

two = client.chat.completions.create(**{**ask, "temperature": 1.2}, n=2)
check("chat: n", [c.index for c in two.choices] == [0, 1] and two.choices[0].message.content != two.choices[1].message.content)

with client.chat.completions.stream(**ask) as stream:
    check("chat: the client's own events", "".join(e.delta for e in stream if e.type == "content.delta") == text)

# log-probabilities
scored = client.chat.completions.create(**{**ask, "temperature": 0}, logprobs=True, top_logprobs=4)
content = scored.choices[0].logprobs.content
check("logprobs: one entry per token", "".join(t.token for t in content) == scored.choices[0].message.content)
check("logprobs: alternatives in order", all(
    len(t.top_logprobs) == 4 and t.top_logprobs[0].token == t.token and
    all(a.logprob >= b.logprob for a, b in zip(t.top_logprobs, t.top_logprobs[1:])) for t in content))

# completions
completion = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=2)
choice = completion.choices[0]
check("completions: text and logprobs", "".join(choice.logprobs.tokens) == choice.text and len(choice.logprobs.token_logprobs) == 12)
pieces = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True)
check("completions: the stream is the same text", "".join(p.choices[0].text for p in pieces) == choice.text)
several = client.completions.create(model=model, prompt=["The dog", "The cat"], max_tokens=3, echo=True)
check("completions: several prompts, echo", [c.text[:7] for c in several.choices] == ["The dog", "The cat"])
word = choice.text.split()[2]
stopped = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stop=[word])
check("completions: stop", stopped.choices[0].finish_reason == "stop" and word not in stopped.choices[0].text)

# structured output: the client makes the schema and reads the answer
class Animal(pydantic.BaseModel):
    kind: Literal["cat", "dog", "dragon"]
    tame: bool


class Story(pydantic.BaseModel):
    colour: Literal["red", "green"]
    animals: list[Animal] = pydantic.Field(min_length=1, max_length=2)


parsed = client.chat.completions.parse(model=model, messages=story, seed=3, response_format=Story)
check("structured output: parse", isinstance(parsed.choices[0].message.parsed, Story))
anything = client.chat.completions.create(
    model=model, messages=story, seed=3, max_tokens=60, response_format={"type": "json_object"})
check("structured output: json_object", anything.choices[0].message.content.startswith("{"))

# tools: the client makes the schema and reads the arguments
class Weather(pydantic.BaseModel):
    """The weather of a city."""
    city: Literal["Rome", "Oslo"]
    days: int = pydantic.Field(ge=1, le=9)


tools = [openai.pydantic_function_tool(Weather, name="weather")]
needed = dict(model=model, messages=[{"role": "user", "content": "Rain?"}], tools=tools, seed=5)
called = client.chat.completions.parse(**needed, tool_choice="required", parallel_tool_calls=False).choices[0]
call = called.message.tool_calls[0]
check("tools: a call parses", called.finish_reason == "tool_calls" and isinstance(call.function.parsed_arguments, Weather))
named = {"type": "function", "function": {"name": "weather"}}
with client.chat.completions.stream(**needed, tool_choice=named) as stream:
    done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
    final = stream.get_final_completion().choices[0]
check("tools: a streamed call parses", len(done) == 1 and isinstance(done[0].parsed_arguments, Weather)
      and final.message.tool_calls[0].function.parsed_arguments == done[0].parsed_arguments)
answer = client.chat.completions.create(model=model, tools=tools, seed=5, max_tokens=8, messages=[
    *needed["messages"], called.message.model_dump(exclude={"parsed"}, exclude_none=True),
    {"role": "tool", "tool_call_id": call.id, "content": "dry"}])
check("tools: the result goes back", answer.usage.completion_tokens > 0)
silent = client.chat.completions.create(**{**needed, "max_tokens": 12}, tool_choice="none").choices[0].message
check("tools: none", not silent.tool_calls and silent.content)

# responses
told = client.responses.create(model=model, input="Once upon a time", max_output_tokens=24, extra_body={"seed": 7})
check("responses: text and usage", told.output_text and told.status == "incomplete" and told.usage.output_tokens == 24)
with client.responses.stream(model=model, input="Once upon a time", max_output_tokens=24, extra_body={"seed": 7}) as stream:
    deltas = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
check("responses: the stream is the same text", deltas == told.output_text)
formed = client.responses.parse(model=model, input="Once upon a time", text_format=Story, extra_body={"seed": 3})
check("responses: parse", isinstance(formed.output_parsed, Story))
function = {"type": "function", "name": "weather", "parameters": Weather.model_json_schema(), "strict": True}
asked = client.responses.create(model=model, input="Rain?", tools=[function], tool_choice="required",
                                parallel_tool_calls=False, extra_body={"seed": 5})
call = asked.output[0]
check("responses: a call parses", call.type == "function_call" and Weather.model_validate_json(call.arguments))
with client.responses.stream(model=model, input="Rain?", tools=[function], tool_choice="required",
                             parallel_tool_calls=False, extra_body={"seed": 5}) as stream:
    for _ in stream:
        pass
    final = stream.get_final_response()
check("responses: a streamed call is the same", final.output[0].arguments == call.arguments and final.status == "completed")
back = client.responses.create(model=model, max_output_tokens=8, tools=[function], input=[
    {"role": "user", "content": "Rain?"}, call.model_dump(exclude_none=True),
    {"type": "function_call_output", "call_id": call.call_id, "output": "dry"}])
check("responses: the result goes back", back.usage.output_tokens > 0)
try:
    client.responses.create(model=model, input="x", previous_response_id="resp_1")
    refused = None
except openai.BadRequestError as error:
    refused = error.param
check("responses: what is not stored cannot be continued", refused == "previous_response_id")

# embeddings: the client asks for base64 and decodes it
vectors = client.embeddings.create(model=model, input=["a small dog", "a big dog", "the moon"])
norms = [sum(x * x for x in v.embedding) for v in vectors.data]
check("embeddings: unit vectors", len(vectors.data) == 3 and all(abs(n - 1) < 1e-4 for n in norms))
floats = client.embeddings.create(model=model, input="a small dog", encoding_format="float")
check("embeddings: base64 and floats agree", all(abs(a - b) < 1e-6 for a, b in zip(floats.data[0].embedding, vectors.data[0].embedding)))


# errors: the client's own classes
def raises(kind, param, **change):
    try:
        client.chat.completions.create(**{**ask, **change})
    except kind as error:
        return error.param == param and error.body["message"]
    return False


check("errors: an unknown model is NotFoundError", raises(openai.NotFoundError, "model", model="gpt-9"))
check("errors: a wrong value is BadRequestError", raises(openai.BadRequestError, "temperature", temperature=9))
check("errors: a tool that is none is BadRequestError", raises(
    openai.BadRequestError, "tools[0].function.name", tools=[{"type": "function", "function": {"name": "a b"}}]))
check("errors: a tool result has its field named", raises(
    openai.BadRequestError, "messages[0].tool_call_id", messages=[{"role": "tool", "content": "5"}]))
check("errors: too long is BadRequestError", raises(
    openai.BadRequestError, "messages", messages=[{"role": "user", "content": "word " * 200_000}]))

# a stream that is left
stream = client.chat.completions.create(**{**ask, "max_completion_tokens": 300}, stream=True)
next(iter(stream))
stream.close()
check("a stream can be left", client.models.list().data[0].id == model)

metrics = urllib.request.urlopen(urllib.request.Request(
    url.removesuffix("/v1") + "/metrics", headers={"Authorization": f"Bearer {client.api_key}"})).read().decode()
check("metrics count tokens", any(l.startswith("bitnet_new_tokens_total ") and float(l.split()[1]) > 0 for l in metrics.splitlines()))
print(json.dumps({"passed": passed, "openai": openai.__version__}))
