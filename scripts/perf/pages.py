"""The report for people: a page, charts, and the history over commits."""

import json

from perf import plots
from perf.metrics import METRICS


def history(directory, report):
    """Adds this report to history.jsonl and returns all entries of its platform; lines that are damaged are left out."""
    path = directory / "history.jsonl"
    values = {name: [metric["value"], metric["spread"]] for name, metric in report["metrics"].items() if metric["value"] is not None}
    entry = {
        "created": report["created"],
        "commit": report["commit"],
        "dirty": report["dirty"],
        "platform": report["platform"],
        "processor": report["system"]["processor"],
        "metrics": values,
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            old = json.loads(line)
            if (old["platform"], old["processor"]) == (entry["platform"], entry["processor"]):
                entries.append(old)
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def charts(directory, report, rust, entries):
    """Writes the charts and returns their names."""
    metrics = report["metrics"]
    present = lambda names: [(name, metrics[name]["value"], metrics[name]["spread"]) for name in names if metrics[name]["value"] is not None]
    written = {}
    speeds = []
    for benchmark in rust["benchmarks"]:
        for what in ("prompt", "decode"):
            values = benchmark["result"].get(f"{what}_tokens_per_second")
            if values is not None:
                spread = benchmark["result"][f"{what}_tokens_per_second_sd"]
                speeds.append((f"{benchmark['name']}, {what}", values, spread))
    written["speed.svg"] = plots.bars("Speed", "tokens/s", speeds)
    latencies = [name for name in METRICS if METRICS[name].unit == "ms"]
    rows = [(name.removesuffix("_ms").replace("_", " "), value, spread) for name, value, spread in present(latencies)]
    written["latency.svg"] = plots.bars("Latency", "ms", rows)
    for name, file in (("throughput_tokens_per_second", "history-throughput.svg"), ("latency_p50_ms", "history-latency.svg")):
        points = [((e["commit"] or "?")[:7], *e["metrics"][name]) for e in entries if name in e["metrics"]]
        if points:
            written[file] = plots.line(f"{name} over commits", METRICS[name].unit, points)
    for name, text in written.items():
        (directory / name).write_text(text, encoding="utf-8")
    return list(written)


def page(report, rust, comparison, drawn):
    """performance-report.md."""
    commit = (report["commit"] or "unknown") + (" with changes" if report["dirty"] else "")
    system = report["system"]
    lines = [
        "# Performance report",
        "",
        f"{report['created']}, commit {commit}, {report['platform']}, {system['processor']}, {system['cores']} processors.",
        "",
        f"Command: `{' '.join(report['command'])}`",
        "",
    ]
    if report["failures"]:
        lines += ["## Failures", ""]
        lines += [f"- **{f['benchmark']}** ({f['kind']}): {f['reason']}" for f in report["failures"]] + [""]
    lines += ["## Metrics", "", "| metric | value | ± | unit | from |", "|---|---:|---:|---|---|"]
    for name, metric in report["metrics"].items():
        if metric["value"] is None:
            lines.append(f"| {name} | none | | | {metric['reason']} |")
        else:
            value, spread = (f"{metric[key]:.5g}" for key in ("value", "spread"))
            lines.append(f"| {name} | {value} | {spread} | {metric['unit']} | {metric['settings']}, {metric['samples']} samples |")
    if report["instructions"]:
        counts = report["instructions"]["counts"]
        lines += ["", f"Instructions ({report['instructions']['rustc']}): " + ", ".join(f"{k} {v:,}" for k, v in counts.items()) + "."]
    else:
        lines += ["", f"No instruction counts: {report.get('instructions_reason', 'unknown')}."]
    lines += ["", *(f"![{name}]({name})\n" for name in drawn), "## Benchmarks", ""]
    for benchmark in rust["benchmarks"]:
        model = benchmark["model"]
        lines.append(f"- {benchmark['name']}: `{' '.join(benchmark['command'])}`; {model['name']}, SHA-256 {model['sha256']}")
    lines += ["", "## Beside other engines", ""]
    if comparison["status"] == "measured":
        lines += ["| engine | threads | what | here | there | ratio (95 % interval) |", "|---|---:|---|---:|---:|---:|"]
        for run in comparison["comparison"]["runs"]:
            for what in ("prompt", "decode"):
                row, (low, high) = run[what], run[what]["ratio_interval"]
                here, there = (f"{row[key]['median']:.4g}" for key in ("tokens_per_second", "peer_tokens_per_second"))
                ratio = f"{row['ratio']['median']:.3g} ({low:.3g}–{high:.3g})"
                lines.append(f"| {run['peer']} | {run['threads']} | {what} {row['tokens']} | {here} | {there} | {ratio} |")
    else:
        lines.append(f"{comparison['status']}: {comparison['reason']}")
    return "\n".join(lines) + "\n"
