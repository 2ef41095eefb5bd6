"""Reports and baselines to test with."""

import copy

from perf.baselines import THRESHOLDS
from perf.metrics import METRICS

SYSTEM = {
    "schema": "bitnet-system-info/1",
    "created": "2026-01-02T03:04:05Z",
    "platform": "linux-x86_64",
    "system": "Linux",
    "processor": "A Processor",
    "cores": 2,
    "memory_bytes": 1 << 30,
    "python": "3.11",
    "rustc": "rustc 1.95.0",
    "bitnet": "bitnet 0.1.0",
    "load_average": [0.0, 0.0, 0.0],
    "environment": {},
    "doctor": None,
    "gpu": None,
    "gpu_reason": "none",
}


def report(**values):
    """A report in which every metric is 100 (accuracy 0.9), or what is given: a value, or (value, spread)."""
    metrics = {}
    for name, metric in METRICS.items():
        value = values.pop(name, 0.9 if metric.kind in ("accuracy", "divergence") else 100.0)
        value, spread = value if isinstance(value, tuple) else (value, 0.0)
        metrics[name] = {
            "value": value,
            "spread": spread,
            "samples": 5,
            "unit": metric.unit,
            "benchmark": "small",
            "settings": "small: 128 + 64 tokens",
        }
        if value is None:
            metrics[name] = {"value": None, "reason": "not measured"}
    assert not values, values
    return {
        "schema": "bitnet-performance-report/1",
        "created": "2026-01-02T03:04:05Z",
        "command": ["run"],
        "commit": "0" * 40,
        "dirty": False,
        "platform": "linux-x86_64",
        "system": copy.deepcopy(SYSTEM),
        "benchmarks": ["small"],
        "metrics": metrics,
        "instructions": {"rustc": "rustc 1.95.0", "counts": {"embedded_token": 1_000_000}},
        "failures": [],
    }


def baselines(of=None):
    """The baselines that a report makes."""
    of = of or report()
    names = [name for name, metric in of["metrics"].items() if metric["value"] is not None]
    origin = {
        "command": "run",
        "commit": of["commit"],
        "dirty": False,
        "created": of["created"],
        "processor": "A Processor",
        "model_sha256": "0" * 64,
        "isa": "avx2",
        "threads": 1,
    }
    kept = ("spread", "samples", "benchmark", "settings")
    return {
        "version": 1,
        "baselines": {
            "linux-x86_64": {
                "rust_implementation": {name: of["metrics"][name]["value"] for name in names},
                "provenance": {name: {**{key: of["metrics"][name][key] for key in kept}, **origin} for name in names},
                "instructions": copy.deepcopy(of["instructions"]),
            }
        },
        "thresholds": copy.deepcopy(THRESHOLDS),
    }
