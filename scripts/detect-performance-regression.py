#!/usr/bin/env python3
"""Compares a performance report with the baselines and says what got worse.

    python3 scripts/detect-performance-regression.py benchmark-results/performance-report.json --fail-on-regression

Levels: CRITICAL, WARNING, IMPROVEMENT, STABLE, by the thresholds of the baselines; a difference inside the spread of the repetitions of either
side is STABLE. Exit status: 2 for a report or baselines that cannot be read or do not follow their schema; with --fail-on-regression also
1 when something is CRITICAL, and 2 when a metric or a baseline is missing; 0 otherwise.
"""

import argparse
import json
import sys
from pathlib import Path

from perf import detect, schema
from perf.baselines import THRESHOLDS

BASELINES = Path(__file__).resolve().parent.parent / "crossval" / "baselines.json"


def read_baselines(given):
    """The file given, or the one of this checkout; without that there is no baseline for any platform."""
    if given is None and not BASELINES.exists():
        return {"version": 1, "baselines": {}, "thresholds": THRESHOLDS}
    known = schema.read(given or BASELINES, "baselines")
    for platform, baseline in known["baselines"].items():
        for name in baseline["rust_implementation"].keys() - baseline["provenance"].keys():
            raise schema.Unreadable(f"{given or BASELINES}: {name} of {platform} does not say where it comes from")
    return known


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", help="performance-report.json")
    parser.add_argument("--platform", help="whose baseline [default: the platform of the report]")
    parser.add_argument("--format", choices=["human", "json"], default="human")
    parser.add_argument("--output", help="file for the verdict [default: standard output]")
    parser.add_argument("--fail-on-regression", action="store_true", help="exit status 1 when something is CRITICAL")
    parser.add_argument("--baselines", help="[default: crossval/baselines.json]")
    args = parser.parse_args(arguments)
    try:
        report = schema.read(args.report, "performance-report")
        baselines = read_baselines(args.baselines)
    except schema.Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verdict = detect.compare(report, baselines, args.platform or report["platform"])
    text = detect.table(verdict) if args.format == "human" else json.dumps(verdict, indent=2) + "\n"
    if args.output:
        try:
            Path(args.output).write_text(text, encoding="utf-8")
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(f"{verdict['level']}: {args.output}")
    else:
        print(text, end="")
    return detect.exit_status(verdict, args.fail_on_regression)


if __name__ == "__main__":
    sys.exit(main())
