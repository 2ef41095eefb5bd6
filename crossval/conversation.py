"""How `xtask compare` and `xtask crossval` talk to another engine: a line in, a line of JSON out.

The engine says who it is, then answers until its input ends:

    bench                      seconds for a prompt with its first token, and for the tokens after that
    logits IDS.json OUT        writes the logits at every position of lists of ids to OUT (see dump.py)
"""

import argparse
import json
import sys

import dump


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--logits", action="store_true", help="answer to `logits`, not to `bench`")
    return parser


def ids(count):
    """Ordinary tokens, no two neighbours alike; what they are does not matter to the speed."""
    return [(7 * i + 11) % 250 for i in range(count)]


def answer(about, bench, logits):
    """`bench()` gives two numbers of seconds, `logits(ids)` rows."""
    say(about)
    for line in sys.stdin:
        words = line.rstrip("\n").split("\t")
        if words[0] == "bench":
            prompt, decode = bench()
            say({"prompt_seconds": prompt, "decode_seconds": decode})
        elif words[0] == "logits":
            with open(words[1], encoding="utf-8") as file:
                lists = json.load(file)
            dump.write(words[2], [logits(one) for one in lists])
            say({"written": words[2]})
        else:
            sys.exit(f"unknown: {words[0]!r}")


def say(what):
    print(json.dumps(what), flush=True)
