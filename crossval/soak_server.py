#!/usr/bin/env python3
"""Mixed load on a running `bitnet serve` from many clients, or figures of its speed. Needs nothing but Python.

    bitnet serve --port 8080 --parallel 16 &
    python3 crossval/soak_server.py soak 127.0.0.1:8080 --minutes 5 --pid $!
    python3 crossval/soak_server.py figures 127.0.0.1:8080 --pid $!

The soak sends streams, streams that are left, readers that dawdle, long prompts, answers of a form, function calls, Anthropic's and
OpenAI's newer spelling, broken JSON and broken HTTP. It fails unless every answer is complete or a proper error, the server is idle at the end without a held page, and
(with --pid) its memory came back to where it was after the first quarter, give or take 5 %. With --ca FILE it speaks HTTPS to a server whose
certificate that file signs; with --model NAME, more than once, requests ask for one model or another.
"""

import argparse
import collections
import http.client
import json
import random
import socket
import ssl
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["soak", "figures"])
parser.add_argument("address")
parser.add_argument("--minutes", type=float, default=5)
parser.add_argument("--clients", type=int, default=64)
parser.add_argument("--tokens", type=int, default=64, help="new tokens of the streams that are measured")
parser.add_argument("--requests", type=int, default=50, help="requests of one token, of each of eight clients")
parser.add_argument("--pid", type=int)
parser.add_argument("--ca", help="certificates (PEM) that the server's is checked with")
parser.add_argument("--model", action="append", default=[], help="a model to ask for (repeatable)")
arguments = parser.parse_args()
host, port = arguments.address.rsplit(":", 1)
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["name", "tame"],
          "properties": {"name": {"type": "string", "maxLength": 12}, "tame": {"type": "boolean"}}}


TLS = ssl.create_default_context(cafile=arguments.ca) if arguments.ca else None


def connect():
    if TLS:
        return http.client.HTTPSConnection(host, int(port), timeout=300, context=TLS)
    return http.client.HTTPConnection(host, int(port), timeout=300)


def model(seed):
    return {"model": arguments.model[seed % len(arguments.model)]} if arguments.model else {}


def post(connection, path, body):
    text = body if isinstance(body, (bytes, str)) else json.dumps(body)
    connection.request("POST", path, text, {"Content-Type": "application/json"})
    return connection.getresponse()


def metrics():
    """Sums over models."""
    connection = connect()
    connection.request("GET", "/metrics")
    sums = collections.Counter()
    for line in connection.getresponse().read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            sums[name.split("{")[0]] += float(value)
    return sums


def memory():
    """Resident kilobytes of the server."""
    with open(f"/proc/{arguments.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def chat(seed, **more):
    return {"messages": [{"role": "user", "content": f"Once upon a time there was number {seed % 50}"}], "seed": seed,
            "max_tokens": 8 + seed % 60, **model(seed), **more}


def refused(response, body):
    """A busy server says so and when to come back; True when it did."""
    if response.status != 503:
        return False
    expect(response.headers["retry-after"] and json.loads(body)["error"]["code"] == "busy", body)
    return True


def whole(seed):
    response = post(connect(), "/v1/chat/completions", chat(seed))
    body = response.read()
    if not refused(response, body):
        expect(response.status == 200 and json.loads(body)["choices"][0]["finish_reason"] in ("stop", "length"), body)


def stream(seed, pause=0.0):
    response = post(connect(), "/v1/chat/completions", chat(seed, stream=True))
    if response.status != 200:
        return expect(refused(response, response.read()), response.status)
    received = b""
    while piece := response.read1(200):
        received += piece
        time.sleep(pause)
    expect(received.endswith(b"data: [DONE]\n\n"), received[-200:])


def dawdle(seed):
    stream(seed, pause=0.01)


def leave(seed):
    connection = connect()
    response = post(connection, "/v1/chat/completions", chat(seed, stream=True, n=2, ignore_eos=True))
    response.read1(100)
    response.close()
    connection.close()


def long_prompt(seed):
    prompt = " ".join(f"word{(seed * 7 + i) % 997}" for i in range(40 + seed % 60))
    response = post(connect(), "/v1/completions", {"prompt": prompt, "max_tokens": 4, **model(seed)})
    body = response.read()
    fits = response.status == 200 or json.loads(body)["error"]["code"] == "context_length_exceeded"
    expect(refused(response, body) or fits, body)


def of_a_form(seed):
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}}
    response = post(connect(), "/v1/chat/completions", {**chat(seed), "max_tokens": 100, "response_format": form})
    body = response.read()
    if not refused(response, body):
        expect(response.status == 200, body)
        animal = json.loads(json.loads(body)["choices"][0]["message"]["content"])
        expect(isinstance(animal["name"], str) and isinstance(animal["tame"], bool), animal)


def call(seed):
    tool = {"type": "function", "function": {"name": "pet", "parameters": SCHEMA}}
    response = post(connect(), "/v1/chat/completions", {**chat(seed), "max_tokens": 120, "tools": [tool],
                                                        "tool_choice": "required", "parallel_tool_calls": False})
    body = response.read()
    if not refused(response, body):
        expect(response.status == 200, body)
        animal = json.loads(json.loads(body)["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
        expect(isinstance(animal["name"], str) and isinstance(animal["tame"], bool), animal)


def other_spelling(seed):
    kind = ("/v1/messages", {}, b"message_stop") if seed % 2 else ("/v1/responses", {"input": "Once"}, b"response.")
    path, more, last = kind
    response = post(connect(), path, {**chat(seed, stream=True), **more})
    if response.status != 200:
        body = response.read()
        return expect(response.status == 503 and response.headers["retry-after"], body)
    body = response.read()
    expect(body.endswith(b"\n\n") and last in body.rsplit(b"\n\n", 2)[-2], body[-300:])


def broken_json(seed):
    good = json.dumps(chat(seed))
    response = post(connect(), "/v1/chat/completions", good[: seed % len(good)])
    body = response.read()
    expect(response.status == 400 and json.loads(body)["error"]["code"] == "invalid_json", body)


def broken_http(seed):
    connection = socket.create_connection((host, int(port)), timeout=60)
    if TLS and seed % 2:
        connection = TLS.wrap_socket(connection, server_hostname=host)
    with connection as raw:
        raw.sendall(random.Random(seed).randbytes(1 + seed % 300) + b"\r\n\r\n")
        try:
            answer = raw.recv(1000)
        except ConnectionResetError:
            answer = b""
        alert = b"\x15\x03" if TLS else b"HTTP/1.1 4"
        expect(not answer or answer.startswith((b"HTTP/1.1 4", alert)), answer)


KINDS = [whole, whole, stream, stream, dawdle, leave, long_prompt, of_a_form, call, other_spelling, broken_json,
         broken_http]


def soak():
    end = time.monotonic() + arguments.minutes * 60
    counts, failures = collections.Counter(), []

    def client(number):
        seed = number
        while time.monotonic() < end and not failures:
            seed += arguments.clients
            kind = random.Random(seed).choice(KINDS)
            try:
                kind(seed)
                counts[kind.__name__] += 1
            except Exception as error:  # whatever it is, it is the result
                failures.append(f"{kind.__name__} {seed}: {error!r}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
    for thread in threads:
        thread.start()
    time.sleep(arguments.minutes * 60 / 4)
    early = memory() if arguments.pid else None
    for thread in threads:
        thread.join()
    for _ in range(200):
        now = metrics()
        if not any(now[f"bitnet_{name}"] for name in ("requests_active", "requests_waiting", "kv_pages_held")):
            break
        time.sleep(0.05)
    else:
        failures.append("not idle at the end, or pages are held")
    late = memory() if arguments.pid else None
    if early and late > early * 1.05:
        failures.append(f"memory grew from {early} to {late} kB")
    names = ("finished", "cancelled", "failed", "refused", "preempted")
    print(json.dumps({"minutes": arguments.minutes, "clients": arguments.clients, "requests": counts,
                      "server": {name: now[f"bitnet_requests_{name}_total"] for name in names},
                      "new_tokens": now["bitnet_new_tokens_total"], "memory_kb": [early, late], "failures": failures[:5]}))
    sys.exit(bool(failures))


def figures():
    """Requests of one token per second over kept connections; streams together against one; idle connections."""
    def together(count, work):
        start = time.perf_counter()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def one_token(number):
        connection = connect()
        for _ in range(arguments.requests):
            response = post(connection, "/v1/completions", {"prompt": "Once", "max_tokens": 1})
            expect(response.status == 200, response.read())
            response.read()

    def long_stream(number):
        body = {"prompt": f"Number {number}:", "max_tokens": arguments.tokens, "ignore_eos": True, "stream": True, "seed": number}
        response = post(connect(), "/v1/completions", body)
        expect(response.read().endswith(b"data: [DONE]\n\n"), "a complete stream")

    long_stream(0)  # the first one warms up
    rates = {count: count * arguments.tokens / together(count, long_stream) for count in (1, 8)}
    result = {"tokens_per_second": rates, "eight_to_one": rates[8] / rates[1],
              "one_token_requests_per_second": 8 * arguments.requests / together(8, one_token)}
    if arguments.pid:
        before = memory()
        idle = [connect() for _ in range(200)]
        for connection in idle:
            connection.request("GET", "/health")
            connection.getresponse().read()
        result["idle_200_connections_kb"] = memory() - before
    print(json.dumps(result))


soak() if arguments.what == "soak" else figures()
