"""The commands of the documents are found, and those that can be checked in a moment are right."""

import contextlib
import importlib.util
import io
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from perf.machine import ROOT

spec = importlib.util.spec_from_file_location("run_document_commands", ROOT / "scripts" / "run-document-commands.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


class Commands(unittest.TestCase):
    def test_lines_of_sh_blocks(self):
        text = "a\n```sh\none\n\ntwo x\n```\n```text\nthree\n```\n```sh slow\nfour\n```\n```python\nfive\n```\n"
        self.assertEqual(program.commands(text), [("one", False), ("two x", False), ("four", True)])

    def test_the_tool_of_a_line(self):
        self.assertEqual(program.tools("A=1 B_C='x y' valgrind --tool=massif bitnet"), "valgrind")
        self.assertEqual(program.tools("bitnet bench"), "bitnet")

    def test_every_script_that_is_named_is_there(self):
        for name in ("performance-tracking.md", "benchmarking.md"):
            lines = program.commands((ROOT / "docs" / name).read_text(encoding="utf-8"))
            self.assertGreater(len(lines), 8, name)
            for line, _ in lines:
                words = [word for word in line.split() if word.startswith("scripts/") or word.endswith(".py")]
                for word in words:
                    self.assertTrue((ROOT / word).is_file(), line)

    def run_program(self, text, *arguments):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BITNET_BIN": f"{folder}/bitnet"}):
            document = Path(folder) / "x.md"
            document.write_text(text, encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                status = program.main([str(document), *arguments])
        return status, out.getvalue()

    @unittest.skipIf(os.name == "nt", "bash")
    def test_a_failing_command_is_a_failure(self):
        status, said = self.run_program("```sh\ntrue\necho why; false\n```\n")
        self.assertEqual(status, 1)
        self.assertIn("why", said)
        self.assertIn("2 commands, 1 failed", said)
        self.assertEqual(self.run_program("```sh\ntrue\n```\n```sh slow\nfalse\n```\n")[0], 0)
        self.assertEqual(self.run_program("```sh slow\nfalse\n```\n", "--slow")[0], 1)
        self.assertEqual(self.run_program("nothing\n")[0], 1)


if __name__ == "__main__":
    unittest.main()
