"""Prepares this machine for measuring: see scripts/setup-perf-env.sh --help."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from perf.machine import DETERMINISTIC, ROOT, environment, output
from perf.prepare import Impossible, build, cargo_metadata, check_features, fixture, say

SIZES = ("tiny", "small")


def parser():
    p = argparse.ArgumentParser(
        prog="setup-perf-env.sh",
        description="Prepares this machine for measuring: the optimised program, fixtures in crossval/fixtures, the environment in "
        "target/perf-env.sh (to be sourced), llama.cpp for comparisons. Does what is missing, so it may be run again and again. Says at the "
        "end what it could not do. Exit status: 0 measuring is possible, 1 it is not.",
    )
    p.add_argument("--features", default="", help="cargo features of bitnet-cli, such as gpu")
    p.add_argument("--cross", action="store_true", help="also check what building for --target needs, and build")
    p.add_argument("--target", metavar="T", help="Rust target of --cross [default: aarch64-unknown-linux-gnu]")
    p.add_argument("--use-cross", action="store_true", help="build for --target with the tool cross, which needs docker or podman")
    p.add_argument("--skip-cpp", action="store_true", help="do not look for llama.cpp, nor install it")
    return p


def write_environment(directory):
    """The settings that make runs repeatable."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "perf-env.sh"
    chosen = environment()
    path.write_text("".join(f"export {name}={chosen[name]}\n" for name in DETERMINISTIC), encoding="utf-8")
    return path


def cross_needs(target, use_cross):
    """What is missing for building for `target`."""
    missing = []
    if use_cross:
        if not shutil.which("cross"):
            missing.append("cross is not installed: cargo install cross")
        if not (shutil.which("docker") or shutil.which("podman")):
            missing.append("cross needs docker or podman")
        return missing
    installed = output(["rustup", "target", "list", "--installed"])
    if installed is None:
        missing.append("rustup does not run: without it only the host's target is there")
    elif target not in installed.split():
        missing.append(f"the target is not installed: rustup target add {target}")
    linker = {
        "aarch64-unknown-linux-gnu": "aarch64-linux-gnu-gcc",
        "x86_64-unknown-linux-gnu": "x86_64-linux-gnu-gcc",
        "x86_64-unknown-linux-musl": "musl-gcc",
    }.get(target)
    if linker and not shutil.which(linker):
        missing.append(f"{linker} is not installed: it links for {target}")
    emulator = "qemu-aarch64" if target.startswith("aarch64") and "linux" in target else None
    if emulator and not shutil.which(emulator):
        missing.append(f"{emulator} is not installed: programs are built, but their tests cannot run here")
    return missing


def find_llama_cpp():
    """Finds or installs llama.cpp; None when it is there, or why not."""
    command = [sys.executable, str(ROOT / "crossval" / "peers.py"), "llama-cpp", "--install"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return None if done.returncode == 0 else "llama.cpp is not there: see above, or --skip-cpp"


def main(arguments=None):
    args = parser().parse_args(arguments)
    done, could_not = [], []
    features = args.features
    try:
        metadata = cargo_metadata()
        try:
            check_features(features, metadata)
        except Impossible as error:
            could_not.append(str(error))
            features = ""
        done.append(f"environment: {write_environment(Path(metadata['target_directory']))}")
        done.append(f"program: {build(features)}")
        done += [f"fixture: {fixture(size)}" for size in SIZES]
    except Impossible as error:
        say(f"error: {error}")
        return 1
    if args.cross or args.target or args.use_cross:
        target = args.target or "aarch64-unknown-linux-gnu"
        missing = cross_needs(target, args.use_cross)
        could_not += missing
        if not [text for text in missing if "qemu" not in text]:
            try:
                done.append(f"program for {target}: {build(features, target, args.use_cross)}")
            except Impossible as error:
                could_not.append(str(error))
    if not args.skip_cpp:
        problem = find_llama_cpp()
        could_not += [problem] if problem else []
    if not shutil.which("valgrind"):
        could_not.append("valgrind is not installed: reports have no instruction counts")
    for text in done:
        print(text)
    for text in could_not:
        print(f"could not: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
