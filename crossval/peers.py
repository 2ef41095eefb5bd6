#!/usr/bin/env python3
"""Finds the other engines, or installs them.

    python3 crossval/peers.py llama-cpp [--install]
    python3 crossval/peers.py transformers [--install]

Prints the Python that has the engine: that of BITNET_PEER_PYTHON, this one, or a virtual environment under target/peers. With --install the
environment is made from the package registry when none has it: llama.cpp is compiled, which takes some minutes; transformers
brings torch. Exit status 1, with the reason, when there is none.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The versions that the golden data was made with.
PEERS = {
    "llama-cpp": ("llama_cpp", ["llama-cpp-python==0.3.36", "numpy"]),
    "transformers": ("torch, transformers, accelerate", ["torch", "transformers==5.23.0", "accelerate", "numpy"]),
}


def has(python, modules):
    command = [str(python), "-c", f"import {modules}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def environment(peer):
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "peers" / peer


def interpreter(directory):
    return directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find(peer):
    """The Python that has the engine, or None."""
    modules, _ = PEERS[peer]
    given = os.environ.get("BITNET_PEER_PYTHON")
    candidates = [*([given] if given else []), sys.executable, interpreter(environment(peer))]
    return next((str(python) for python in candidates if has(python, modules)), None)


def install(peer):
    """Makes the environment; raises CalledProcessError with what went wrong on standard error."""
    directory = environment(peer)
    say = lambda command: print("+ " + " ".join(command), file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(directory)],
        [str(interpreter(directory)), "-m", "pip", "install", "--quiet", *PEERS[peer][1]],
    ):
        say(command)
        subprocess.run(command, check=True, stdout=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--install", action="store_true")
    args = parser.parse_args()
    python = find(args.peer)
    if python is None and args.install:
        try:
            install(args.peer)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"error: {error}", file=sys.stderr)
        python = find(args.peer)
    if python is None:
        hint = "its installation failed" if args.install else f"python3 crossval/peers.py {args.peer} --install"
        print(f"error: no Python has {PEERS[args.peer][0]}: {hint}", file=sys.stderr)
        return 1
    print(python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
