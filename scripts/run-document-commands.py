#!/usr/bin/env python3
"""Executes the commands of documents: every line of their ```sh blocks, in order, in the root of the checkout.

    python3 scripts/run-document-commands.py docs/benchmarking.md [--slow]

`bitnet` is the optimised program of this checkout (target/release, or the folder of BITNET_BIN). Blocks marked `sh slow` run with --slow only. A
command whose tool is not installed is SKIPPED, and said to be. Exit status 1 when a command fails, or when there is none.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf.machine import ROOT, environment
from perf.prepare import cargo_metadata

OPTIONAL = {"perf", "valgrind", "ms_print", "callgrind_annotate", "nsys"}


def commands(text):
    """(line, is it slow) of all blocks."""
    found = []
    for kind, block in re.findall(r"^```(sh(?: slow)?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found += [(line, kind == "sh slow") for line in block.splitlines() if line.strip()]
    return found


def tools(line):
    """The programs that a line starts: the first word that sets no variable, and what valgrind or perf start is not looked at."""
    words = shlex.split(line)
    return next((word for word in words if not re.match(r"^[A-Z_]+=", word)), "")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for a command [default: 3600]")
    args = parser.parse_args(arguments)
    given = os.environ.get("BITNET_BIN")
    folder = Path(given).parent if given else Path(cargo_metadata()["target_directory"]) / "release"
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    (ROOT / "benchmark-results").mkdir(exist_ok=True)
    done = failed = 0
    for document in args.documents:
        for line, slow in commands(document.read_text(encoding="utf-8")):
            tool = tools(line)
            if slow and not args.slow:
                print(f"SKIPPED (slow): {line}", flush=True)
                continue
            if tool in OPTIONAL and not shutil.which(tool):
                print(f"SKIPPED ({tool} is not installed): {line}", flush=True)
                continue
            begin = time.monotonic()
            with tempfile.TemporaryFile() as output:
                process = subprocess.run(
                    ["bash", "-c", line],
                    cwd=ROOT,
                    env={**environment(), "PATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=args.timeout,
                    check=False,
                )
                output.seek(0)
                text = output.read().decode("utf-8", "replace")
            seconds = time.monotonic() - begin
            print(f"{'ok' if process.returncode == 0 else 'FAILED'} ({seconds:.1f} s): {line}", flush=True)
            done += 1
            if process.returncode:
                failed += 1
                print(text[-4000:], flush=True)
    print(f"{done} commands, {failed} failed")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
