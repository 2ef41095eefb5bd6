"""Prompt and decode speed of llama.cpp, to stand beside `bitnet bench` on a model of the same shape.

    pip install llama-cpp-python
    yes '' | head -3 | python3 crossval/bench_llama_cpp.py MODEL.gguf --threads 2 --prompt 128 --new 64

Prints a line of JSON about the engine, then measures once for every line of its standard input and prints a line of JSON for it:
seconds for the prompt with its first token, and for the tokens after that. So `xtask compare` lets two engines take turns.
"""

import argparse
import json
import sys
import time

import llama_cpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    args = parser.parse_args()

    start = time.perf_counter()
    model = llama_cpp.Llama(
        args.model,
        n_ctx=max(512, args.prompt + args.new + 8),
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        verbose=False,
    )
    say({"engine": f"llama.cpp in llama-cpp-python {llama_cpp.__version__}", "load_seconds": time.perf_counter() - start})
    # ordinary tokens, no two neighbours alike; what they are does not matter to the speed
    ids = [(7 * i + 11) % 250 for i in range(args.prompt + args.new)]
    for _ in sys.stdin:
        model.reset()
        start = time.perf_counter()
        model.eval(ids[: args.prompt])
        middle = time.perf_counter()
        for token in ids[args.prompt : -1]:
            model.eval([token])
        say({"prompt_seconds": middle - start, "decode_seconds": time.perf_counter() - middle})


def say(what: dict) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
