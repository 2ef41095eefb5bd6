"""Writes measured baselines: see scripts/generate-performance-baselines.sh --help."""

import argparse
import sys
import tempfile
from pathlib import Path

from perf import run, schema
from perf.machine import ROOT, platform_name
from perf.metrics import METRICS
from perf.prepare import say
from perf.run import positive

# Shares of the baseline; of accuracy and divergence: differences.
THRESHOLDS = {
    "throughput": {"critical": 0.15, "warning": 0.08, "improvement": 0.05},
    "latency": {"critical": 0.25, "warning": 0.15, "improvement": 0.05},
    "memory": {"critical": 0.30, "warning": 0.20, "improvement": 0.05},
    "accuracy": {"critical": 0.005, "warning": 0.002, "improvement": 0.05},
    "divergence": {"critical": 0.005, "warning": 0.002, "improvement": 0.05},
    "instructions": {"critical": 0.05, "warning": 0.01, "improvement": 0.05},
}


def parser():
    p = argparse.ArgumentParser(
        prog="generate-performance-baselines.sh",
        description="Measures this machine and writes it as the baseline of its platform. Baselines of other platforms stay as they are: "
        "they can only be measured there. Exit status: 0 written, 1 a benchmark failed and nothing was written, 2 refused.",
    )
    p.add_argument("--platforms", default=platform_name(), help="comma-separated; only this machine's can be measured")
    p.add_argument("--iterations", type=positive(int), default=20, metavar="N", help="repetitions [default: 20]")
    p.add_argument("--timeout", type=positive(float), default=600.0, metavar="S", help="seconds for one benchmark [default: 600]")
    p.add_argument("--output", type=Path, default=ROOT / "crossval" / "baselines.json", help="[default: crossval/baselines.json]")
    return p


def provenance(report, rust, name):
    """Where a number comes from."""
    metric = report["metrics"][name]
    runs = {benchmark["name"]: benchmark for benchmark in rust["benchmarks"]}
    # the load time is that of the headline model
    origin = runs.get(metric["benchmark"]) or runs["small"]
    engine = runs["small"]["result"]
    return {
        "spread": metric["spread"],
        "samples": metric["samples"],
        "benchmark": metric["benchmark"],
        "settings": metric["settings"],
        "command": " ".join(report["command"]),
        "commit": report["commit"],
        "dirty": report["dirty"],
        "created": report["created"],
        "processor": report["system"]["processor"],
        "model_sha256": origin["model"]["sha256"],
        "isa": engine["isa"],
        "threads": engine["threads"],
    }


def baseline(report, rust):
    """The entry of a platform."""
    names = [name for name in METRICS if report["metrics"][name]["value"] is not None]
    return {
        "rust_implementation": {name: report["metrics"][name]["value"] for name in names},
        "provenance": {name: provenance(report, rust, name) for name in names},
        "instructions": report["instructions"],
    }


def main(arguments=None):
    args = parser().parse_args(arguments)
    here = platform_name()
    others = [name for name in args.platforms.split(",") if name.strip() != here]
    if others or not args.platforms:
        say(f"error: {', '.join(others)} cannot be measured on {here}: run this script there; numbers are not invented")
        return 2
    try:
        known = schema.read(args.output, "baselines") if args.output.exists() else {"version": 1, "baselines": {}}
    except schema.Unreadable as error:
        say(f"error: {error}")
        return 2
    with tempfile.TemporaryDirectory() as directory:
        status = run.main(
            ["--skip-cpp", "--iterations", str(args.iterations), "--timeout", str(args.timeout), "--output", directory]
        )
        if status:
            say("error: nothing was written: a baseline needs every benchmark")
            return status
        report = schema.read(Path(directory) / "performance-report.json", "performance-report")
        rust = schema.read(Path(directory) / "rust-results.json", "rust-results")
    share = report["metrics"]["cpu_percent"]["value"]
    if share is not None and share < 90.0:
        say(f"warning: the program had {share:.0f} % of a processor: others used this machine meanwhile, measure again when it is quiet")
    # the folder was temporary: the command that measures the same
    cut = report["command"].index("--output")
    report["command"] = report["command"][:cut]
    known["baselines"][here] = baseline(report, rust)
    known["thresholds"] = known.get("thresholds", THRESHOLDS)
    schema.write(args.output, known, "baselines")
    say(f"{args.output}: baseline of {here}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
