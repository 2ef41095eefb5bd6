"""Plays the program `bitnet`: prints what it would print; PLAYER says how it fails."""

import json
import os
import struct
import sys
import time

args = sys.argv[1:]
mode = os.environ.get("PLAYER", "")


def after(option):
    return args[args.index(option) + 1]


def bench():
    small = "--model" in args
    if mode == "stuck" and not small:
        time.sleep(600)
    if mode == "broken" or (mode == "half" and small):
        sys.exit("it is broken")
    if mode == "noise":
        print("no JSON")
        return
    values = [100.0 + i for i in range(int(after("-r")))]
    latency = {"p50": 0.01, "p95": 0.02, "p99": 0.03, "mean": 0.012, "sd": 0.001}
    lists = ["decode_tokens_per_second", "prompt_tokens_per_second", "tokens_per_second", "time_to_first_token_seconds", "request_seconds"]
    print(json.dumps({
        "isa": "avx2",
        "threads": 1,
        "decode_tokens_per_second": 100.0,
        "decode_tokens_per_second_sd": 1.0,
        "prompt_tokens_per_second": 900.0,
        "prompt_tokens_per_second_sd": 9.0,
        "token_latency_seconds": latency,
        "request_latency_seconds": latency,
        "cpu_percent": 99.0,
        "load_seconds": 0.02,
        "peak_resident_bytes": 64 << 20,
        "values": {name: values for name in lists},
        "environment": {name: os.environ.get(name) for name in ("BITNET_SEED", "RAYON_NUM_THREADS", "BITNET_DETERMINISTIC")},
    }))


def logits():
    """Logits whose best token is the next one of the list (or, when wrong, the one after that)."""
    body, header = b"", {}
    with open(after("--ids"), encoding="utf-8") as file:
        lists = json.load(file)
    for n, ids in enumerate(lists):
        begin = len(body)
        for token in ids[1:] + [0]:
            row = [0.0] * 512
            row[(token + (mode == "wrong")) % 512] = 1.0
            body += struct.pack("<512f", *row)
        header[f"logits.{n}"] = {"dtype": "F32", "shape": [len(ids), 512], "data_offsets": [begin, len(body)]}
    text = json.dumps(header).encode()
    with open(after("--out"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


if "doctor" in args:
    print(json.dumps({"processor": "A Played Processor"}))
elif "--version" in args:
    print("bitnet 0.0.0")
elif "bench" in args:
    bench()
elif "--diff" in args:
    print(json.dumps({"all": {"positions": 77, "min_cosine": 0.999, "mean_kl": 0.001}}))
elif "logits" in args:
    logits()
else:
    sys.exit(f"unknown: {args}")
