"""What has to be there before anything is measured: the optimised program and the fixtures."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from perf.machine import ROOT, output

FIXTURES = ROOT / "crossval" / "fixtures"


class Impossible(Exception):
    """What was asked for cannot be done here; says why and what to do."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def cargo_metadata():
    text = output(["cargo", "metadata", "--no-deps", "--format-version", "1"])
    if text is None:
        raise Impossible("cargo does not run: install Rust, see https://rustup.rs")
    return json.loads(text)


def check_features(features, metadata):
    """Refuses what the program does not have, before half an hour of building."""
    package = next(package for package in metadata["packages"] if package["name"] == "bitnet-cli")
    for feature in filter(None, features.split(",")):
        if feature not in package["features"]:
            known = ", ".join(sorted(package["features"]))
            raise Impossible(f"bitnet-cli has no feature {feature!r} (there are {known}): a CPU build measures without --features")


def host():
    text = output(["rustc", "-vV"]) or ""
    return next((line.removeprefix("host: ") for line in text.splitlines() if line.startswith("host: ")), None)


def build(features="", target=None, use_cross=False):
    """Builds the optimised program and returns its path. BITNET_BIN names one that is built already."""
    if os.environ.get("BITNET_BIN"):
        return Path(os.environ["BITNET_BIN"])
    metadata = cargo_metadata()
    check_features(features, metadata)
    tool = "cross" if use_cross else "cargo"
    if not shutil.which(tool):
        raise Impossible(f"{tool} is not installed: cargo install {tool}")
    command = [tool, "build", "--release", "-p", "bitnet-cli"]
    command += ["--features", features] if features else []
    command += ["--target", target] if target else []
    say("+ " + " ".join(command))
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise Impossible(f"{' '.join(command)} failed")
    name = "bitnet.exe" if (target or host() or "").find("windows") >= 0 else "bitnet"
    return Path(metadata["target_directory"]) / (target or "") / "release" / name


def fixture(size, encoding="i2_s"):
    """The synthetic model of a size; made if it is not there."""
    path = FIXTURES / f"bitnet-{size}-{encoding}.gguf"
    if not path.exists():
        command = ["cargo", "run", "-p", "xtask", "--", "gen-fixtures", "--size", size, "--output", str(FIXTURES)]
        command += ["--type", encoding] if encoding != "i2_s" else []
        say("+ " + " ".join(command))
        if subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode or not path.exists():
            path.unlink(missing_ok=True)  # half a file must not be measured
            raise Impossible(f"{' '.join(command)} failed")
    return path
