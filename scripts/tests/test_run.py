"""The run and the baselines, with a program that only plays the engine: results, failures, a stuck one."""

import contextlib
import io
import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

from perf import baselines, benchmarks, machine, pages, plots, prepare, run, schema, setup
from perf.machine import platform_name

PLAYER = Path(__file__).resolve().parent / "player.py"


@unittest.skipIf(os.name == "nt", "the player is a shell script")
class Played(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        player = self.folder / "bitnet"
        player.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PLAYER}" "$@"\n', encoding="utf-8")
        player.chmod(0o755)
        model = machine.ROOT / "assets" / "default.gguf"
        for patch in (
            mock.patch.dict(os.environ, {"BITNET_BIN": str(player), "PLAYER": ""}),
            mock.patch.object(run, "fixture", lambda size: model),
            mock.patch.object(benchmarks.shutil, "which", lambda name: None),  # no valgrind for a player
        ):
            patch.start()
            self.addCleanup(patch.stop)
        for name in machine.DETERMINISTIC:
            os.environ.pop(name, None)

    def run_all(self, mode="", *arguments):
        with mock.patch.dict(os.environ, {"PLAYER": mode}), contextlib.redirect_stderr(io.StringIO()) as said:
            status = run.main(["--output", str(self.folder / "out"), "--iterations", "5", *arguments])
        self.said = said.getvalue()
        report = schema.read(self.folder / "out" / "performance-report.json", "performance-report")
        for name in ("rust-results", "comparison-results", "system-info"):
            schema.read(self.folder / "out" / f"{name}.json", name)
        return status, report

    def test_everything_is_measured(self):
        status, report = self.run_all()
        self.assertEqual((status, report["failures"]), (0, []))
        self.assertIsNone(report["commit"], "the player is of no commit")
        metrics = report["metrics"]
        value = lambda name: metrics[name]["value"]
        self.assertEqual(value("throughput_tokens_per_second"), 102.0)  # the median of 100 to 104
        self.assertAlmostEqual(metrics["throughput_tokens_per_second"]["spread"], 2.5**0.5)
        self.assertAlmostEqual(value("latency_p95_ms"), 20.0)
        self.assertEqual((value("memory_usage_mb"), value("accuracy_score"), value("load_time_ms")), (64.0, 1.0, 20.0))
        self.assertIsNone(value("gpu_memory_mb"))
        self.assertEqual(report["instructions_reason"], "valgrind is not installed")
        rust = json.loads((self.folder / "out" / "rust-results.json").read_text(encoding="utf-8"))
        self.assertEqual(rust["benchmarks"][0]["result"]["environment"], machine.DETERMINISTIC)
        page = (self.folder / "out" / "performance-report.md").read_text(encoding="utf-8")
        for part in ("| throughput_tokens_per_second | 102 |", "![speed.svg]", "not asked for: --include-cpp", "gpu_memory_mb | none"):
            self.assertIn(part, page)

    def test_a_stuck_run_is_killed_and_the_others_go_on(self):
        begin = time.monotonic()
        status, report = self.run_all("stuck", "--timeout", "5")
        self.assertLess(time.monotonic() - begin, 120)
        self.assertEqual(status, 1)
        self.assertEqual([(f["benchmark"], f["kind"]) for f in report["failures"]], [("embedded", "timeout")])
        self.assertEqual(report["metrics"]["throughput_tokens_per_second"]["value"], 102.0)
        self.assertIn("killed after 5 s", self.said)

    def test_a_partial_failure_still_writes_a_report(self):
        status, report = self.run_all("half")
        self.assertEqual((status, report["benchmarks"]), (1, ["embedded", "accuracy"]))
        self.assertIn("it is broken", report["metrics"]["latency_p50_ms"]["reason"])
        self.assertIn("it is broken", report["metrics"]["load_time_ms"]["reason"])

    def test_output_that_is_no_json_is_a_failure(self):
        status, report = self.run_all("noise")
        self.assertEqual((status, report["failures"][0]["kind"]), (1, "output"))

    def test_no_benchmark_at_all_is_a_failure(self):
        with mock.patch.object(benchmarks, "accuracy", side_effect=benchmarks.Failed("exit", "none")):
            status, report = self.run_all("broken")
        self.assertEqual((status, report["benchmarks"]), (1, []))
        self.assertIn("no benchmark was executed", self.said)

    def test_wrong_tokens_show_in_the_accuracy(self):
        _, report = self.run_all("wrong")
        self.assertEqual(report["metrics"]["accuracy_score"]["value"], 0.0)

    def test_history_grows_and_survives_damage(self):
        _, report = self.run_all()
        path = self.folder / "out" / "history.jsonl"
        path.write_text(path.read_text(encoding="utf-8") + "{damaged\n", encoding="utf-8")
        self.run_all()
        self.assertEqual(len(pages.history(self.folder / "out", report)), 3)
        other = json.loads(json.dumps(report))
        other["system"]["processor"] = "Another"
        self.assertEqual(len(pages.history(self.folder / "out", other)), 1, "machines are not mixed")

    def generate(self, mode="", *arguments):
        path = self.folder / "baselines.json"
        with mock.patch.dict(os.environ, {"PLAYER": mode}), contextlib.redirect_stderr(io.StringIO()) as said:
            status = baselines.main(["--output", str(path), *arguments])
        self.said = said.getvalue()
        return status, path

    def test_a_baseline_is_what_was_measured(self):
        status, path = self.generate("", "--iterations", "3")
        self.assertEqual(status, 0, self.said)
        known = schema.read(path, "baselines")["baselines"][platform_name()]
        self.assertEqual(known["rust_implementation"]["throughput_tokens_per_second"], 101.0)
        origin = known["provenance"]["throughput_tokens_per_second"]
        self.assertEqual((origin["samples"], origin["spread"], origin["processor"]), (3, 1.0, "A Played Processor"))
        self.assertNotIn(str(self.folder), json.dumps(known))
        self.assertNotIn("gpu_memory_mb", known["rust_implementation"])
        # another platform's stays
        whole = schema.read(path, "baselines")
        whole["baselines"]["plan9-mips"] = whole["baselines"][platform_name()]
        schema.write(path, whole, "baselines")
        self.generate("", "--iterations", "4")
        again = schema.read(path, "baselines")["baselines"]
        self.assertEqual(again["plan9-mips"], known)
        self.assertEqual(again[platform_name()]["rust_implementation"]["throughput_tokens_per_second"], 101.5)

    def test_other_platforms_are_refused(self):
        for platforms in ("plan9-mips", f"{platform_name()},plan9-mips"):
            status, path = self.generate("", "--platforms", platforms)
            self.assertEqual((status, path.exists()), (2, False))
            self.assertIn("plan9-mips cannot be measured", self.said)

    def test_a_failure_writes_no_baseline(self):
        status, path = self.generate("half")
        self.assertEqual((status, path.exists()), (1, False))


class Preparation(unittest.TestCase):
    def test_a_feature_that_is_not_there_is_refused_before_building(self):
        with self.assertRaisesRegex(prepare.Impossible, "no feature 'gpu'.*cpu"):
            prepare.check_features("cpu,gpu", {"packages": [{"name": "bitnet-cli", "features": {"cpu": []}}]})
        prepare.check_features("", {"packages": [{"name": "bitnet-cli", "features": {}}]})

    def test_only_what_runs_here_is_measured(self):
        with mock.patch.object(run, "host", lambda: "x86_64-unknown-linux-gnu"):
            run.runs_here(None)
            run.runs_here("x86_64-unknown-linux-musl")
            for target in ("aarch64-unknown-linux-gnu", "x86_64-pc-windows-msvc", "x86_64-apple-darwin"):
                with self.assertRaises(prepare.Impossible):
                    run.runs_here(target)

    def test_what_is_set_stays(self):
        with mock.patch.dict(os.environ, {"RAYON_NUM_THREADS": "3"}), tempfile.TemporaryDirectory() as folder:
            text = setup.write_environment(Path(folder)).read_text(encoding="utf-8")
        self.assertIn("export BITNET_DETERMINISTIC=", text)
        self.assertIn("export RAYON_NUM_THREADS=3\n", text)

    def test_needs_of_cross_building_are_named(self):
        nothing = mock.patch.object(setup.shutil, "which", lambda name: None)
        with nothing, mock.patch.object(setup, "output", lambda command: ""):
            missing = " ".join(setup.cross_needs("aarch64-unknown-linux-gnu", False))
            for part in ("rustup target add aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc", "qemu-aarch64"):
                self.assertIn(part, missing)
            self.assertIn("docker or podman", " ".join(setup.cross_needs("aarch64-unknown-linux-gnu", True)))

    def test_numbers_must_be_positive(self):
        both = ["--include-cpp", "--skip-cpp"]
        for arguments in (["--iterations", "0"], ["--tokens", "1"], ["--timeout", "0"], ["--timeout", "nan"], both):
            with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(io.StringIO()):
                run.parser().parse_args(arguments)
            self.assertEqual(ended.exception.code, 2)


class Plots(unittest.TestCase):
    def test_they_are_xml_and_escape_text(self):
        for text in (
            plots.bars("a <b>", "t/s", [("x & y", 3.0, 1.0), ("zero", 0.0, 0.0)]),
            plots.line("h", "ms", [("abc", 1.0, 0.1), ("def", 2.0, 0.0)]),
            plots.line("one", "ms", [("abc", 1.0, 0.1)]),
            plots.bars("none", "", []),
        ):
            ElementTree.fromstring(text)

    def test_bars_are_as_long_as_their_values(self):
        parts = plots.bars("", "", [("a", 4.0, 0.0), ("b", 2.0, 0.0)]).split('<rect class="b"')[1:]
        longer, shorter = (float(part.split('width="')[1].split('"')[0]) for part in parts)
        self.assertAlmostEqual(longer, 2 * shorter, delta=0.2)


if __name__ == "__main__":
    unittest.main()
