"""Compares a report with a baseline: what got worse, what got better, and what is only noise."""

from perf.metrics import ABSOLUTE, HIGHER_IS_BETTER, METRICS, TIMES

LEVELS = ["STABLE", "IMPROVEMENT", "WARNING", "CRITICAL"]  # the worst last
# Thresholds are decimal fractions: 100 − 85 is 15 %, whatever binary fractions make of it.
ROUNDING = 1e-9


def judge(kind, baseline, current, spread, thresholds):
    """Level and worsening of a value. `spread` is the larger standard deviation of both sides, in the metric's unit.

    The worsening is positive when things got worse: a share of the baseline, or a difference for kinds in ABSOLUTE.
    """
    worse = baseline - current if kind in HIGHER_IS_BETTER else current - baseline
    if kind not in ABSOLUTE:
        worse /= baseline
        spread = spread / baseline
    if abs(worse) <= spread:
        return "STABLE", worse
    limits = thresholds[kind]
    if worse >= limits["critical"] - ROUNDING:
        return "CRITICAL", worse
    if worse >= limits["warning"] - ROUNDING:
        return "WARNING", worse
    if worse <= -limits["improvement"] + ROUNDING:
        return "IMPROVEMENT", worse
    return "STABLE", worse


def compare(report, baselines, platform):
    """The verdict on a report: a dictionary that follows regression-verdict.schema.json."""
    thresholds = baselines["thresholds"]
    known = baselines["baselines"].get(platform)
    lines, missing, notes = [], [], []
    if platform != report["platform"]:
        notes.append(f"the report is of {report['platform']}, compared with the baseline of {platform}")
    if known is None:
        missing.append(f"there is no baseline for {platform}")
        known = {"rust_implementation": {}, "provenance": {}}
    for name, baseline in known["rust_implementation"].items():
        kind = METRICS[name].kind if name in METRICS else None
        if kind is None:
            continue
        found = report["metrics"].get(name)
        if found is None or found["value"] is None:
            reason = f": {found['reason']}" if found else ""
            missing.append(f"{name} is not in the report{reason}")
            continue
        origin = known["provenance"][name]
        spread = max(origin["spread"], found["spread"])
        level, worse = judge(kind, baseline, found["value"], spread, thresholds)
        line = {
            "metric": name,
            "level": level,
            "baseline": baseline,
            "current": found["value"],
            "worse": worse,
            "spread": spread,
            "unit": METRICS[name].unit,
            "note": note(kind, baseline, worse, spread, thresholds),
        }
        lines.append(line)
        if origin["benchmark"] != found["benchmark"] or origin["settings"] != found["settings"]:
            missing.append(f"{name} was measured by {found['settings']}, its baseline by {origin['settings']}")
            lines.pop()
        elif origin["processor"] != report["system"]["processor"]:
            text = f"the baseline is of another processor: {origin['processor']}, not {report['system']['processor']}"
            notes += [text] if text not in notes else []
        elif origin["isa"] != (tier := (report["system"]["doctor"] or {}).get("isa", origin["isa"])):
            text = f"the baseline is of another instruction-set tier: {origin['isa']}, not {tier}"
            notes += [text] if text not in notes else []
    for name, found in report["metrics"].items():
        if METRICS[name].kind and found["value"] is not None and name not in known["rust_implementation"]:
            missing.append(f"{name} has no baseline for {platform}")
    instructions(report.get("instructions"), known.get("instructions"), thresholds, lines, notes)
    if report["failures"]:
        missing += [f"{failure['benchmark']} failed: {failure['reason']}" for failure in report["failures"]]
    if not lines:
        missing.append("nothing was compared")
    worst = max((line["level"] for line in lines), key=LEVELS.index, default="STABLE")
    return {
        "schema": "bitnet-regression-verdict/1",
        "level": worst,
        "platform": platform,
        "report_commit": report["commit"],
        "baseline_commits": sorted({origin["commit"] or "unknown" for origin in known["provenance"].values()}),
        "metrics": lines,
        "missing": missing,
        "notes": notes,
    }


def note(kind, baseline, worse, spread, thresholds):
    """What a reader must know to believe a level."""
    relative = spread if kind in ABSOLUTE else spread / baseline
    if abs(worse) <= relative and abs(worse) > 0:
        text = "inside the spread of the repetitions"
        if relative > thresholds[kind]["warning"]:
            text += ", which is wider than the threshold: too noisy to judge"
        return text
    return ""


def instructions(found, known, thresholds, lines, notes):
    """Instruction counts know no noise: where both sides have them they decide what timings cannot.

    Equal counts beside slower times are noted and the level stays: caches and the order of work cost time without instructions.
    """
    if not found or not known:
        return
    if found["rustc"] != known["rustc"]:
        notes.append("instruction counts are of different compilers and were not compared")
        return
    slower = any(LEVELS.index(line["level"]) >= LEVELS.index("WARNING") for line in lines if METRICS[line["metric"]].kind in TIMES)
    levels = []
    for name, baseline in known["counts"].items():
        current = found["counts"].get(name)
        if current is None or baseline <= 0:
            continue
        level, worse = judge("instructions", baseline, current, 0.0, thresholds)
        lines.append({
            "metric": f"instructions.{name}",
            "level": level,
            "baseline": baseline,
            "current": current,
            "worse": worse,
            "spread": 0.0,
            "unit": "instructions",
            "note": "",
        })
        levels.append(level)
    if slower and levels and set(levels) <= {"STABLE", "IMPROVEMENT"}:
        notes.append("slower with no more instructions: a slower state of the machine, other programs on it, or worse use of its memory; measure again")


def exit_status(verdict, fail_on_regression):
    """1: critical; 2: something could not be compared; both only when asked to fail."""
    if not fail_on_regression:
        return 0
    if verdict["level"] == "CRITICAL":
        return 1
    return 2 if verdict["missing"] else 0


def table(verdict):
    """The verdict for people."""
    lines = [f"{verdict['level']} on {verdict['platform']}", ""]
    head = ("level", "metric", "baseline", "now", "change", "spread")
    lines.append("{:<12} {:<34} {:>16} {:>16} {:>10} {:>9}".format(*head))
    for line in sorted(verdict["metrics"], key=lambda line: -LEVELS.index(line["level"])):
        kind = METRICS[line["metric"]].kind if line["metric"] in METRICS else "instructions"
        grew = line["current"] - line["baseline"]
        if kind in ABSOLUTE:
            change, spread = f"{grew:+.4f}", f"{line['spread']:.4f}"
        else:
            change = f"{100 * grew / line['baseline']:+.1f} %"
            spread = f"{100 * line['spread'] / line['baseline']:.1f} %"
        values = (f"{value:.6g}" for value in (line["baseline"], line["current"]))
        text = "{:<12} {:<34} {:>16} {:>16} {:>10} {:>9}".format(line["level"], line["metric"], *values, change, spread)
        lines.append(text + (f"  ({line['note']})" if line["note"] else ""))
    lines += [f"MISSING      {text}" for text in verdict["missing"]]
    lines += [f"note: {text}" for text in verdict["notes"]]
    return "\n".join(lines) + "\n"
