"""Runs the benchmarks and writes benchmark-results/: see scripts/run-performance-benchmarks.sh --help."""

import argparse
import os
import sys
from pathlib import Path

from perf import pages, schema
from perf.benchmarks import HEADLINE, Settings, everything
from perf.machine import ROOT, commit, environment, now, platform_name, system_info
from perf.prepare import Impossible, build, fixture, host, say
from perf.processes import Failed, run


def parser():
    p = argparse.ArgumentParser(
        prog="run-performance-benchmarks.sh",
        description="Measures this checkout and writes performance-report.json and .md, rust-results.json, comparison-results.json and "
        "system-info.json. Exit status: 0 all was measured, 1 something failed (the report says what), 2 nothing could be measured.",
    )
    p.add_argument("--features", default="", help="cargo features of bitnet-cli")
    cpp = p.add_mutually_exclusive_group()
    cpp.add_argument("--include-cpp", action="store_true", help="also compare with llama.cpp (benchmark_comparison.py)")
    cpp.add_argument("--skip-cpp", action="store_true", help="do not [default]")
    p.add_argument("--timeout", type=positive(float), default=600.0, metavar="S", help="seconds for one benchmark [default: 600]")
    p.add_argument("--iterations", type=positive(int), default=10, metavar="N", help="repetitions [default: 10]")
    p.add_argument("--tokens", type=positive(int, 2), default=64, metavar="N", help="tokens to generate [default: 64]")
    p.add_argument("--target", metavar="T", help="Rust target to build for; it must run on this machine")
    p.add_argument("--use-cross", action="store_true", help="build with cross")
    p.add_argument("--output", type=Path, default=ROOT / "benchmark-results", metavar="DIR", help="[default: benchmark-results]")
    return p


def positive(kind, least=1):
    def parse(text):
        value = kind(text)
        if not (value > 0 if kind is float else value >= least):
            raise argparse.ArgumentTypeError(f"{text} is too small")
        return value

    return parse


def runs_here(target):
    """Only what this machine executes is measured."""
    here = host()
    if target and here and target.split("-")[0] != here.split("-")[0] or target and ("linux" in target) != ("linux" in (here or "")):
        raise Impossible(f"programs for {target} do not run on {here}: measure on such a machine (setup-perf-env.sh builds for it)")


def compare(args, directory):
    """comparison-results.json; a failure has its reason in it."""
    about = {"schema": "bitnet-comparison-results/1", "created": now(), "commit": commit()[0]}
    if not args.include_cpp:
        reason = "--skip-cpp" if args.skip_cpp else "not asked for: --include-cpp"
        return {**about, "status": "skipped", "reason": reason}
    path = directory / "comparison-results.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "benchmark_comparison.py"), "--output", str(path)]
    try:
        run(command, max(args.timeout, 1800.0))
        return schema.read(path, "comparison-results")
    except Failed as error:
        return {**about, "status": "failed", "reason": error.reason}
    except schema.Unreadable as error:
        return {**about, "status": "failed", "reason": str(error)}


def main(arguments=None):
    args = parser().parse_args(arguments)
    try:
        runs_here(args.target)
        binary = build(args.features, args.target, args.use_cross)
        model = fixture(HEADLINE)
    except Impossible as error:
        say(f"error: {error}")
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    outcome = everything(Settings(binary, args.iterations, args.tokens, args.timeout), model)
    comparison = compare(args, args.output)
    if comparison["status"] == "failed":
        outcome.failures.append({"benchmark": "comparison", "kind": "exit", "reason": comparison["reason"]})
    system = system_info(binary)
    # a program that was built elsewhere need not be of this commit
    name, dirty = (None, None) if os.environ.get("BITNET_BIN") else commit()
    # what was asked for, with the settings that make it repeatable
    settings = [f"{key}={environment()[key]}" for key in ("BITNET_DETERMINISTIC", "BITNET_SEED", "RAYON_NUM_THREADS")]
    given = sys.argv[1:] if arguments is None else arguments
    report = {
        "schema": "bitnet-performance-report/1",
        "created": now(),
        "command": [*settings, "scripts/run-performance-benchmarks.sh", *given],
        "commit": name,
        "dirty": dirty,
        "platform": platform_name(),
        "system": system,
        "benchmarks": [benchmark["name"] for benchmark in outcome.benchmarks],
        "metrics": outcome.metrics,
        "instructions": outcome.instructions,
        **({} if outcome.instructions else {"instructions_reason": outcome.instructions_reason or "counting them failed"}),
        "failures": outcome.failures,
    }
    rust = {
        "schema": "bitnet-rust-results/1",
        "created": report["created"],
        "commit": name,
        "benchmarks": outcome.benchmarks,
        "failures": outcome.failures,
    }
    schema.write(args.output / "system-info.json", system, "system-info")
    schema.write(args.output / "rust-results.json", rust, "rust-results")
    schema.write(args.output / "comparison-results.json", comparison, "comparison-results")
    schema.write(args.output / "performance-report.json", report, "performance-report")
    drawn = pages.charts(args.output, report, rust, pages.history(args.output, report))
    text = pages.page(report, rust, comparison, drawn)
    (args.output / "performance-report.md").write_text(text, encoding="utf-8")
    for failure in outcome.failures:
        say(f"FAILED: {failure['benchmark']}: {failure['reason']}")
    say(f"{len(outcome.benchmarks)} benchmarks, {len(outcome.failures)} failures: {args.output / 'performance-report.md'}")
    if not outcome.benchmarks:
        say("error: no benchmark was executed")
    return 1 if outcome.failures or not outcome.benchmarks else 0


if __name__ == "__main__":
    sys.exit(main())
