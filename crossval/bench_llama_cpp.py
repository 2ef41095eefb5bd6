"""Decode and prompt speed of llama.cpp on a GGUF file, to stand beside `bitnet bench` on the same file.

    pip install llama-cpp-python
    python3 crossval/bench_llama_cpp.py MODEL.gguf --threads 2 --prompt 128 --decode 64 --repetitions 3

Prints one JSON object with every run and the medians, in tokens per second.
"""

import argparse
import json
import statistics
import time

import llama_cpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()

    start = time.perf_counter()
    model = llama_cpp.Llama(
        args.model,
        n_ctx=max(512, args.prompt + args.decode + 8),
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        verbose=False,
    )
    load_s = time.perf_counter() - start
    ids = [(7 * i + 11) % 250 for i in range(args.prompt)]
    model.eval([1])  # warm-up

    prompt_speed, decode_speed = [], []
    for _ in range(args.repetitions):
        model.reset()
        start = time.perf_counter()
        model.eval(ids)
        prompt_speed.append(args.prompt / (time.perf_counter() - start))
        model.reset()
        model.eval([1])
        start = time.perf_counter()
        for i in range(args.decode):
            model.eval([ids[i % len(ids)]])
        decode_speed.append(args.decode / (time.perf_counter() - start))

    print(
        json.dumps(
            {
                "engine": f"llama.cpp in llama-cpp-python {llama_cpp.__version__}",
                "model": args.model,
                "threads": args.threads,
                "load_s": load_s,
                "prompt_tokens": args.prompt,
                "prompt_tokens_per_s": {"runs": prompt_speed, "median": statistics.median(prompt_speed)},
                "decode_tokens": args.decode,
                "decode_tokens_per_s": {"runs": decode_speed, "median": statistics.median(decode_speed)},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
