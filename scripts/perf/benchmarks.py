"""The benchmarks: what is run, and what metrics are made of what it prints."""

import hashlib
import json
import re
import shutil
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from perf import safetensors
from perf.machine import ROOT, environment, output, platform_name
from perf.metrics import METRICS
from perf.processes import Failed, run, run_json

PROMPT = 128
PROCESSES = 3  # that open the model, for the load time
GOLDEN = ROOT / "crossval" / "golden" / "bitnet-2b4t-packed"
EMBEDDED = ROOT / "assets" / "default.gguf"
HEADLINE = "small"


@dataclass
class Settings:
    """How much is measured."""

    binary: Path
    iterations: int
    tokens: int
    timeout: float

    @property
    def threads(self):
        return environment()["RAYON_NUM_THREADS"]

    def text(self, name):
        return f"{name}: {PROMPT} + {self.tokens} tokens, RAYON_NUM_THREADS={self.threads}"


@dataclass
class Outcome:
    """What the benchmarks gave."""

    benchmarks: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    metrics: dict = field(default_factory=dict)
    instructions: dict | None = None
    instructions_reason: str = ""

    def attempt(self, name, work):
        """Runs one benchmark; what fails is written down, and the others go on."""
        try:
            return work()
        except Failed as error:
            self.failures.append({"benchmark": name, "kind": error.kind, "reason": error.reason})
        except (KeyError, TypeError, ValueError, OSError, statistics.StatisticsError) as error:
            reason = f"{type(error).__name__}: {error}"
            self.failures.append({"benchmark": name, "kind": "output", "reason": reason})
        return None


def shown(command):
    """A command as it is run in the root of the checkout."""
    return [str(part).removeprefix(f"{ROOT}/") for part in command]


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return {"name": str(Path(path).relative_to(ROOT)), "bytes": Path(path).stat().st_size, "sha256": sha.hexdigest()}


def everything(settings, fixture):
    """Runs all benchmarks; `fixture` is the synthetic model that the headline metrics come from."""
    outcome = Outcome()
    for name, model in (("embedded", None), (HEADLINE, fixture)):
        outcome.attempt(name, lambda name=name, model=model: bench(outcome, settings, name, model))
    outcome.attempt("load", lambda: load(outcome, settings, fixture))
    outcome.attempt("accuracy", lambda: accuracy(outcome, settings))
    outcome.attempt("instructions", lambda: instructions(outcome, settings))
    complete(outcome)
    return outcome


def bench(outcome, settings, name, model):
    """`bitnet bench` on one model."""
    command = [settings.binary, "bench", "-p", PROMPT, "-n", settings.tokens, "-r", settings.iterations, "--json"]
    command += ["--model", model] if model else []
    result, seconds = run_json(command, settings.timeout)
    outcome.benchmarks.append({
        "name": name,
        "command": shown(command),
        "model": digest(model or EMBEDDED),
        "seconds": seconds,
        "result": result,
    })
    if name == HEADLINE:
        bench_metrics(outcome, settings, result)


def bench_metrics(outcome, settings, result):
    values = result["values"]
    measured = Measured(outcome, settings.text(HEADLINE), HEADLINE)
    measured.repeated("throughput_tokens_per_second", values["decode_tokens_per_second"])
    measured.repeated("prompt_tokens_per_second", values["prompt_tokens_per_second"])
    measured.repeated("end_to_end_tokens_per_second", values["tokens_per_second"])
    measured.repeated("time_to_first_token_ms", [1e3 * s for s in values["time_to_first_token_seconds"]])
    token, request = result["token_latency_seconds"], result["request_latency_seconds"]
    tokens = len(values["request_seconds"]) * (settings.tokens - 1)
    # the median of all tokens moves as the repetitions do; single tokens vary more
    moves = deviation(values["decode_tokens_per_second"]) / statistics.mean(values["decode_tokens_per_second"])
    measured.single("latency_p50_ms", 1e3 * token["p50"], 1e3 * token["p50"] * moves, tokens)
    for percent in ("p95", "p99"):
        spread = max(token["sd"], token[percent] * moves)
        measured.single(f"latency_{percent}_ms", 1e3 * token[percent], 1e3 * spread, tokens)
    requests = values["request_seconds"]
    for percent in ("p50", "p95", "p99"):
        spread = deviation(requests)
        measured.single(f"request_latency_{percent}_ms", 1e3 * request[percent], 1e3 * spread, len(requests))
    if result["peak_resident_bytes"] is not None:
        measured.single("memory_usage_mb", result["peak_resident_bytes"] / 2**20, 0.0, 1)
    if result["cpu_percent"] is not None:
        measured.single("cpu_percent", result["cpu_percent"], 0.0, len(requests))


class Measured:
    """Writes metrics of one benchmark."""

    def __init__(self, outcome, settings, benchmark):
        self.outcome, self.settings, self.benchmark = outcome, settings, benchmark

    def repeated(self, name, values):
        """The median of repetitions, and their standard deviation."""
        self.single(name, statistics.median(values), deviation(values), len(values))

    def single(self, name, value, spread, samples):
        self.outcome.metrics[name] = {
            "value": float(value),
            "spread": float(spread),
            "samples": samples,
            "unit": METRICS[name].unit,
            "benchmark": self.benchmark,
            "settings": self.settings,
        }


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def load(outcome, settings, model):
    """Opening the model, in processes of their own."""
    command = [settings.binary, "bench", "-p", 1, "-n", 2, "-r", 1, "--json", "--model", model]
    seconds = [run_json(command, settings.timeout)[0]["load_seconds"] for _ in range(PROCESSES)]
    measured = Measured(outcome, f"load: {HEADLINE}, RAYON_NUM_THREADS={settings.threads}", "load")
    measured.repeated("load_time_ms", [1e3 * s for s in seconds])


def accuracy(outcome, settings):
    """Logits and greedy tokens beside those of another engine (crossval/golden)."""
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        found, ids = Path(directory) / "logits.safetensors", Path(directory) / "ids.json"
        logits = [settings.binary, "--quiet", "logits", "--model", GOLDEN]
        run([*logits, "--ids", GOLDEN / "ids.json", "--out", found], settings.timeout)
        diff, seconds = run_json(
            [settings.binary, "logits", "--json", "--diff", GOLDEN / "logits.safetensors", found], settings.timeout
        )
        ids.write_text(json.dumps([case["prompt"] + case["continuation"] for case in expected["greedy"]]), encoding="utf-8")
        run([*logits, "--ids", ids, "--out", found], settings.timeout)
        rows = safetensors.read(found)
    same = total = 0
    for index, case in enumerate(expected["greedy"]):
        first = len(case["prompt"]) - 1
        for row, token in zip(rows[f"logits.{index}"][first:], case["continuation"]):
            same += max(range(len(row)), key=row.__getitem__) == token
            total += 1
    settings_text = f"accuracy: {GOLDEN.name}, {expected['oracle']}"
    measured = Measured(outcome, settings_text, "accuracy")
    measured.single("accuracy_score", same / total, 0.0, total)
    measured.single("logit_cosine", diff["all"]["min_cosine"], 0.0, diff["all"]["positions"])
    measured.single("logit_kl", diff["all"]["mean_kl"], 0.0, diff["all"]["positions"])
    outcome.benchmarks.append({
        "name": "accuracy",
        "command": shown([*logits, "--ids", GOLDEN / "ids.json", "--out", "logits.safetensors"]),
        "model": digest(GOLDEN / "model.safetensors"),
        "seconds": seconds,
        "result": {**diff["all"], "greedy_tokens": total, "greedy_tokens_same": same},
    })


def instructions(outcome, settings):
    """Instructions of one more token of the embedded model, counted by valgrind: no noise of the machine moves them."""
    if not shutil.which("valgrind"):
        outcome.instructions_reason = "valgrind is not installed"
        return
    few, many = 2, 10
    isa = {"BITNET_ISA": "avx2"} if platform_name().endswith("x86_64") else {}  # valgrind knows no AVX-512
    counts = []
    for tokens in (few, many):
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", settings.binary]
        command += ["--quiet", "run", "Once upon a time", "--greedy", "-n", tokens, "-t", 1]
        _, text, _ = run(command, settings.timeout, isa)
        found = re.search(r"I\s+refs:\s+([\d,]+)", text)
        if not found:
            raise Failed("output", "no instruction count from valgrind")
        counts.append(int(found.group(1).replace(",", "")))
    rustc = output(["rustc", "--version"]) or "unknown"
    per_token = (counts[1] - counts[0]) // (many - few)
    outcome.instructions = {"rustc": rustc, "counts": {"embedded_start": counts[0], "embedded_token": per_token}}


def complete(outcome):
    """Every metric is there: what was not measured is null, with the reason."""
    failed = {failure["benchmark"]: failure["reason"] for failure in outcome.failures}
    origin = {"accuracy_score": "accuracy", "logit_cosine": "accuracy", "logit_kl": "accuracy", "load_time_ms": "load"}
    for name in METRICS:
        if name in outcome.metrics:
            continue
        if name == "gpu_memory_mb":
            reason = "the program has the CPU backend only"
        else:
            reason = failed.get(origin.get(name, HEADLINE), "this system does not say")
        outcome.metrics[name] = {"value": None, "reason": reason}
