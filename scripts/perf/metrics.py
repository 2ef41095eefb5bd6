"""The metrics of a report: what each is called, what it means, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """`kind` names the thresholds that judge it; None: it is only reported."""

    unit: str
    kind: str | None
    meaning: str


# Kinds whose values should grow; of all others they should shrink.
HIGHER_IS_BETTER = {"throughput", "accuracy"}
# Kinds whose thresholds are differences; those of all others are shares of the baseline.
ABSOLUTE = {"accuracy", "divergence"}
# Kinds that come from a clock.
TIMES = {"throughput", "latency"}

METRICS = {
    "throughput_tokens_per_second": Metric("tokens/s", "throughput", "tokens generated one by one"),
    "prompt_tokens_per_second": Metric("tokens/s", "throughput", "tokens of a prompt"),
    "end_to_end_tokens_per_second": Metric("tokens/s", "throughput", "prompt and generated tokens of a whole request"),
    "latency_p50_ms": Metric("ms", "latency", "from one generated token to the next"),
    "latency_p95_ms": Metric("ms", "latency", "from one generated token to the next"),
    "latency_p99_ms": Metric("ms", "latency", "from one generated token to the next"),
    "request_latency_p50_ms": Metric("ms", "latency", "whole request"),
    # of the few requests of a run these are the slowest one: the machine's doing more often than the program's
    "request_latency_p95_ms": Metric("ms", None, "whole request"),
    "request_latency_p99_ms": Metric("ms", None, "whole request"),
    "time_to_first_token_ms": Metric("ms", "latency", "from the prompt to its first token"),
    # some milliseconds of a process that starts: two runs of the same program differ by half
    "load_time_ms": Metric("ms", None, "opening the model"),
    "memory_usage_mb": Metric("MiB", "memory", "largest resident memory of the process"),
    "gpu_memory_mb": Metric("MiB", "memory", "largest memory on the GPU"),
    "cpu_percent": Metric("%", None, "processor time over time; 100 is one thread at work"),
    "accuracy_score": Metric("", "accuracy", "greedy tokens that are those of the reference"),
    "logit_cosine": Metric("", "accuracy", "smallest cosine of the logits of a position with those of the reference"),
    "logit_kl": Metric("nats", "divergence", "mean divergence from the distribution of the reference"),
}
