#!/usr/bin/env python3
"""Our engine beside others on the same weights, in turns: speed with 95 % intervals, and whether both say the same.

    python3 benchmark_comparison.py                                       llama.cpp, on a small synthetic model that is made
    python3 benchmark_comparison.py --model OURS.gguf --peer-model THEIRS.gguf -t 1,2
    python3 benchmark_comparison.py --peer transformers --model DIRECTORY
    python3 benchmark_comparison.py --peer-cmd TEMPLATE --peer-pattern REGEX --peer-model FILE

Runs `cargo run --release -p xtask -- compare --install --json` with the arguments it does not know (see there for all of them), prints a table
of what was measured, also where we lose, and writes it to a JSON file. Exit status: 0 measured, 1 not.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from perf import schema  # noqa: E402
from perf.machine import commit, now  # noqa: E402


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "benchmark-results" / "comparison-results.json"
    parser.add_argument("--output", type=Path, default=default, help="[default: benchmark-results/comparison-results.json]")
    args, passed_on = parser.parse_known_args(arguments)
    program = [os.environ["BITNET_XTASK"]] if os.environ.get("BITNET_XTASK") else ["cargo", "run", "--release", "-p", "xtask", "--"]
    command = [*program, "compare", "--install", "--json", *passed_on]
    results = {"schema": "bitnet-comparison-results/1", "created": now(), "commit": commit()[0]}
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ValueError(f"status {done.returncode} of {' '.join(command)}: see above")
        comparison = json.loads(done.stdout)
        results |= {"status": "measured", "command": command, "comparison": comparison}
    except (OSError, ValueError) as error:
        results |= {"status": "failed", "reason": str(error)}
    schema.write(args.output, results, "comparison-results")
    if results["status"] == "failed":
        print(f"error: {results['reason']}", file=sys.stderr)
        return 1
    print(table(comparison), end="")
    print(f"written: {args.output}")
    return 0


def table(comparison):
    lines = ["{:<44} {:>7} {:>12} {:>12} {:>12} {:>22}".format("engine", "threads", "tokens", "here tok/s", "there tok/s", "ratio (95 %)")]
    for run in comparison["runs"]:
        for what in ("prompt", "decode"):
            row, (low, high) = run[what], run[what]["ratio_interval"]
            here, there = (f"{row[key]['median']:.4g}" for key in ("tokens_per_second", "peer_tokens_per_second"))
            ratio = f"{row['ratio']['median']:.3g} ({low:.3g}–{high:.3g})"
            tokens = f"{what} {row['tokens']}"
            lines.append(f"{run['peer'][:44]:<44} {run['threads']:>7} {tokens:>12} {here:>12} {there:>12} {ratio:>22}")
    likeness = comparison["likeness"]
    if likeness:
        lines.append(
            f"logits at {likeness['positions']} positions: the same best token at {100 * likeness['argmax_agreement']:.1f} %, "
            f"mean cosine {likeness['mean_cosine']:.5f}, mean KL {likeness['mean_kl']:.2e}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
