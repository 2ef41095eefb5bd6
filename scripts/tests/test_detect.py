"""Every boundary of every level, noise, and the exit status."""

import contextlib
import importlib.util
import io
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from perf import detect, schema
from perf.baselines import THRESHOLDS
from tests.reports import baselines, report

SCRIPT = Path(__file__).resolve().parent.parent / "detect-performance-regression.py"
spec = importlib.util.spec_from_file_location("detect_performance_regression", SCRIPT)
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


def level(kind, baseline, current, spread=0.0):
    return detect.judge(kind, baseline, current, spread, THRESHOLDS)[0]


class Levels(unittest.TestCase):
    def boundary(self, kind, baseline, cases):
        for current, expected in cases:
            self.assertEqual(level(kind, baseline, current), expected, f"{kind}: {baseline} → {current}")

    def test_throughput(self):
        self.boundary("throughput", 100.0, [
            (84.0, "CRITICAL"), (85.0, "CRITICAL"), (85.01, "WARNING"),
            (92.0, "WARNING"), (92.01, "STABLE"), (100.0, "STABLE"),
            (104.99, "STABLE"), (105.0, "IMPROVEMENT"), (200.0, "IMPROVEMENT"),
        ])

    def test_latency(self):
        self.boundary("latency", 8.0, [
            (10.01, "CRITICAL"), (10.0, "CRITICAL"), (9.99, "WARNING"),
            (9.2, "WARNING"), (9.19, "STABLE"), (8.0, "STABLE"),
            (7.61, "STABLE"), (7.6, "IMPROVEMENT"), (1.0, "IMPROVEMENT"),
        ])

    def test_memory(self):
        self.boundary("memory", 1000.0, [
            (1301.0, "CRITICAL"), (1300.0, "CRITICAL"), (1299.0, "WARNING"),
            (1200.0, "WARNING"), (1199.0, "STABLE"), (951.0, "STABLE"), (950.0, "IMPROVEMENT"),
        ])

    def test_accuracy_is_a_difference_and_not_a_share(self):
        self.boundary("accuracy", 0.5, [
            (0.494, "CRITICAL"), (0.495, "CRITICAL"), (0.4951, "WARNING"),
            (0.498, "WARNING"), (0.4981, "STABLE"), (0.5, "STABLE"), (0.549, "STABLE"), (0.55, "IMPROVEMENT"),
        ])

    def test_divergence(self):
        self.boundary("divergence", 0.0, [
            (0.0051, "CRITICAL"), (0.005, "CRITICAL"), (0.0049, "WARNING"),
            (0.002, "WARNING"), (0.0019, "STABLE"), (0.0, "STABLE"),
        ])
        self.assertEqual(level("divergence", 0.06, 0.01), "IMPROVEMENT")

    def test_instructions(self):
        self.boundary("instructions", 10000, [
            (10500, "CRITICAL"), (10499, "WARNING"), (10100, "WARNING"),
            (10099, "STABLE"), (9501, "STABLE"), (9500, "IMPROVEMENT"),
        ])

    def test_binary_fractions_do_not_move_a_boundary(self):
        for baseline in (0.1, 0.3, 0.7, 1.1, 33.3, 146.1, 1e-3, 1e6):
            self.assertEqual(level("throughput", baseline, baseline * 0.85), "CRITICAL", baseline)
            self.assertEqual(level("throughput", baseline, baseline * 0.92), "WARNING", baseline)
            self.assertEqual(level("latency", baseline, baseline * 1.25), "CRITICAL", baseline)
            self.assertEqual(level("latency", baseline, baseline * 1.15), "WARNING", baseline)


class Noise(unittest.TestCase):
    def test_a_difference_inside_the_spread_is_stable(self):
        self.assertEqual(level("throughput", 100.0, 80.0, 20.0), "STABLE")
        self.assertEqual(level("throughput", 100.0, 79.9, 20.0), "CRITICAL")
        self.assertEqual(level("latency", 100.0, 130.0, 30.0), "STABLE")
        self.assertEqual(level("throughput", 100.0, 110.0, 10.0), "STABLE")
        self.assertEqual(level("throughput", 100.0, 110.1, 10.0), "IMPROVEMENT")

    def test_the_spread_of_either_side_counts(self):
        name = "throughput_tokens_per_second"
        for then, now in ((25.0, 0.0), (0.0, 25.0)):
            known = baselines(report(**{name: (100.0, then)}))
            verdict = detect.compare(report(**{name: (80.0, now)}), known, "linux-x86_64")
            line = next(line for line in verdict["metrics"] if line["metric"] == name)
            self.assertEqual((line["level"], line["spread"]), ("STABLE", 25.0))
            self.assertIn("too noisy to judge", line["note"])

    def test_small_noise_is_not_called_too_noisy(self):
        verdict = detect.compare(report(latency_p50_ms=(101.0, 2.0)), baselines(), "linux-x86_64")
        line = next(line for line in verdict["metrics"] if line["metric"] == "latency_p50_ms")
        self.assertEqual(line["note"], "inside the spread of the repetitions")


class Verdicts(unittest.TestCase):
    def verdict(self, now, then=None, platform="linux-x86_64"):
        verdict = detect.compare(now, then or baselines(), platform)
        self.assertEqual(schema.violations(verdict, schema.load_schema("regression-verdict")), [])
        return verdict

    def test_planted_slowdowns(self):
        for share, expected in ((0.8, "CRITICAL"), (0.9, "WARNING"), (0.97, "STABLE"), (1.2, "IMPROVEMENT")):
            verdict = self.verdict(report(throughput_tokens_per_second=(100.0 * share, 1.0)))
            self.assertEqual((verdict["level"], verdict["missing"]), (expected, []))

    def test_the_worst_level_wins(self):
        verdict = self.verdict(report(throughput_tokens_per_second=200.0, latency_p99_ms=116.0))
        self.assertEqual(verdict["level"], "WARNING")
        verdict = self.verdict(report(throughput_tokens_per_second=90.0, accuracy_score=0.8))
        self.assertEqual(verdict["level"], "CRITICAL")

    def test_cpu_percent_is_reported_and_not_judged(self):
        verdict = self.verdict(report(cpu_percent=500.0))
        self.assertEqual(verdict["level"], "STABLE")
        self.assertNotIn("cpu_percent", [line["metric"] for line in verdict["metrics"]])

    def test_what_is_missing_is_said(self):
        verdict = self.verdict(report(memory_usage_mb=None))
        self.assertEqual(verdict["missing"], ["memory_usage_mb is not in the report: not measured"])
        verdict = self.verdict(report(), baselines(report(gpu_memory_mb=None)))
        self.assertEqual(verdict["missing"], ["gpu_memory_mb has no baseline for linux-x86_64"])
        verdict = self.verdict(report(), platform="macos-aarch64")
        self.assertIn("there is no baseline for macos-aarch64", verdict["missing"])
        self.assertIn("nothing was compared", verdict["missing"])
        self.assertIn("the report is of linux-x86_64", verdict["notes"][0])

    def test_a_failed_benchmark_is_missing(self):
        now = report()
        now["failures"] = [{"benchmark": "embedded", "kind": "timeout", "reason": "killed after 1 s"}]
        self.assertEqual(self.verdict(now)["missing"], ["embedded failed: killed after 1 s"])

    def test_other_settings_are_not_compared(self):
        now = report(throughput_tokens_per_second=10.0)
        now["metrics"]["throughput_tokens_per_second"]["settings"] = "small: 128 + 16 tokens"
        verdict = self.verdict(now)
        self.assertEqual((verdict["level"], len(verdict["missing"])), ("STABLE", 1))
        self.assertIn("16 tokens", verdict["missing"][0])

    def test_another_processor_is_noted_once(self):
        now = report()
        now["system"]["processor"] = "Another"
        self.assertEqual(len(self.verdict(now)["notes"]), 1)

    def test_another_tier_of_a_processor_of_the_same_name_is_noted_once(self):
        now = report()
        now["system"]["doctor"] = {"isa": "amx"}
        self.assertEqual(self.verdict(now)["notes"], ["the baseline is of another instruction-set tier: avx2, not amx"])
        now["system"]["doctor"] = {"isa": "avx2"}
        self.assertEqual(self.verdict(now)["notes"], [])

    def test_instruction_counts_decide_where_timings_are_noise(self):
        noisy = report(throughput_tokens_per_second=(80.0, 30.0))
        self.assertEqual(self.verdict(noisy)["level"], "STABLE")
        noisy["instructions"]["counts"]["embedded_token"] = 1_200_000
        self.assertEqual(self.verdict(noisy)["level"], "CRITICAL")
        noisy["instructions"]["rustc"] = "rustc 9"
        verdict = self.verdict(noisy)
        self.assertEqual(verdict["level"], "STABLE")
        self.assertIn("different compilers", verdict["notes"][0])

    def test_slower_times_with_equal_instruction_counts_are_noted_and_count(self):
        slow = report(throughput_tokens_per_second=79.0)
        verdict = self.verdict(slow)
        self.assertEqual(verdict["level"], "CRITICAL")
        self.assertIn("no more instructions", verdict["notes"][0])
        slow["instructions"]["counts"]["embedded_token"] = 1_020_000
        self.assertEqual(self.verdict(slow)["notes"], [])
        self.assertEqual(self.verdict(report(memory_usage_mb=300.0))["notes"], [])

    def test_the_table_has_the_worst_first(self):
        text = detect.table(self.verdict(report(latency_p99_ms=130.0, memory_usage_mb=None)))
        lines = text.splitlines()
        self.assertEqual(lines[0], "CRITICAL on linux-x86_64")
        self.assertTrue(lines[3].startswith("CRITICAL     latency_p99_ms") and "+30.0 %" in lines[3], lines[3])
        self.assertTrue(any(line.startswith("MISSING") for line in lines))


class Program(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, value):
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return str(path)

    def run_program(self, now, *arguments, then=None):
        given = [self.write("report.json", now), "--baselines", self.write("baselines.json", then or baselines()), *arguments]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = program.main(given)
        return status, out.getvalue(), err.getvalue()

    def test_status_of_levels(self):
        slow, slower = report(throughput_tokens_per_second=90.0), report(throughput_tokens_per_second=80.0)
        for now, flag, expected in ((report(), True, 0), (slow, True, 0), (slower, True, 1), (slower, False, 0)):
            status, out, _ = self.run_program(now, *(["--fail-on-regression"] if flag else []))
            self.assertEqual(status, expected, out)

    def test_status_of_what_is_missing(self):
        for now, arguments in ((report(latency_p50_ms=None), []), (report(), ["--platform", "windows-x86_64"])):
            self.assertEqual(self.run_program(now, *arguments)[0], 0)
            self.assertEqual(self.run_program(now, *arguments, "--fail-on-regression")[0], 2)

    def test_critical_comes_before_missing(self):
        now = report(latency_p50_ms=None, throughput_tokens_per_second=10.0)
        self.assertEqual(self.run_program(now, "--fail-on-regression")[0], 1)

    def test_unreadable_and_wrong_reports(self):
        no_metrics, wrong_value, not_positive = report(), report(), report()
        del no_metrics["metrics"]
        wrong_value["metrics"]["latency_p50_ms"]["value"] = "fast"
        not_positive["metrics"]["latency_p50_ms"]["value"] = 0.0
        infinite = json.dumps(report()).replace("100.0", "Infinity", 1)
        huge = json.dumps(report()).replace("100.0", "1e999", 1)
        deep = "[" * 100_000
        for now in (no_metrics, wrong_value, not_positive, infinite, huge, deep, "{", "[]", "", "null"):
            status, out, err = self.run_program(now)
            self.assertEqual((status, out), (2, ""), str(now)[:40])
            self.assertIn("report.json", err)
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(program.main([str(self.folder / "none.json")]), 2)

    def test_wrong_baselines(self):
        then = baselines()
        then["baselines"]["linux-x86_64"]["rust_implementation"]["latency_p50_ms"] = 0
        status, _, err = self.run_program(report(), then=then)
        self.assertEqual(status, 2)
        self.assertIn("baselines.json", err)
        then = baselines()
        del then["thresholds"]["memory"]
        self.assertEqual(self.run_program(report(), then=then)[0], 2)
        then = baselines()
        del then["baselines"]["linux-x86_64"]["provenance"]["latency_p50_ms"]
        status, _, err = self.run_program(report(), then=then)
        self.assertEqual(status, 2)
        self.assertIn("latency_p50_ms", err)

    def test_no_baselines_at_all(self):
        path = self.write("report.json", report())
        with mock.patch.object(program, "BASELINES", self.folder / "none.json"), contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(program.main([path]), 0)
            self.assertEqual(program.main([path, "--fail-on-regression"]), 2)
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(program.main([path, "--baselines", str(self.folder / "none.json")]), 2)

    def test_json_and_output(self):
        status, out, _ = self.run_program(report(), "--format", "json")
        self.assertEqual((status, json.loads(out)["level"]), (0, "STABLE"))
        path = self.folder / "verdict.json"
        status, out, _ = self.run_program(report(), "--format", "json", "--output", str(path))
        self.assertEqual((status, json.loads(path.read_text(encoding="utf-8"))["level"]), (0, "STABLE"))
        self.assertEqual(out, f"STABLE: {path}\n")
        status, _, _ = self.run_program(report(), "--output", str(self.folder / "no" / "such" / "x"))
        self.assertEqual(status, 2)


if __name__ == "__main__":
    unittest.main()
