"""The schema checker, with values worked out by hand, and against the schemas of this project."""

import json
import tempfile
import unittest
from pathlib import Path

from perf import schema
from tests.reports import SYSTEM, baselines, report


class Rules(unittest.TestCase):
    def check(self, rules, good, bad):
        for value in good:
            self.assertEqual(schema.violations(value, rules), [], value)
        for value in bad:
            self.assertNotEqual(schema.violations(value, rules), [], value)

    def test_types(self):
        self.check({"type": "number"}, [1, 1.5], [True, "1", None])
        self.check({"type": "integer"}, [1, -3], [1.0, False])
        self.check({"type": ["string", "null"]}, ["", None], [0, []])
        self.check({"type": "object"}, [{}], [[]])

    def test_bounds(self):
        self.check({"minimum": 0}, [0, 3], [-1e-9])
        self.check({"exclusiveMinimum": 0}, [1e-9], [0, -1])
        self.check({"minLength": 1}, ["a"], [""])
        self.check({"minItems": 1}, [[0]], [[]])
        self.check({"pattern": "^a+$"}, ["aa"], ["b", ""])

    def test_structure(self):
        rules = {"required": ["a"], "properties": {"a": {"const": 1}}, "additionalProperties": False}
        self.check(rules, [{"a": 1}], [{}, {"a": 2}, {"a": 1, "b": 1}])
        self.check({"additionalProperties": {"type": "string"}}, [{"x": ""}], [{"x": 1}])
        self.check({"items": {"enum": ["a", 1]}}, [["a", 1], []], [["b"]])
        self.check({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}}, [None], [1])
        self.check({"anyOf": [{"type": "null"}, {"minimum": 5, "type": "number"}]}, [None, 5], [4, "x"])

    def test_a_rule_that_is_not_known_is_an_error(self):
        with self.assertRaises(ValueError):
            schema.violations(1, {"maximum": 0})

    def test_where(self):
        rules = {"properties": {"a": {"items": {"type": "string"}}}}
        self.assertEqual(schema.violations({"a": ["x", 1]}, rules), ["$.a[1]: int instead of string"])


class Files(unittest.TestCase):
    def test_ours_follow_their_schemas(self):
        for name, value in (("performance-report", report()), ("baselines", baselines()), ("system-info", SYSTEM)):
            self.assertEqual(schema.violations(value, schema.load_schema(name)), [], name)

    def test_the_shipped_baselines_are_readable(self):
        path = Path(__file__).resolve().parents[2] / "crossval" / "baselines.json"
        known = schema.read(path, "baselines")
        for platform in known["baselines"].values():
            self.assertEqual(platform["rust_implementation"].keys(), platform["provenance"].keys())

    def test_nothing_invalid_is_written(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.json"
            with self.assertRaises(ValueError):
                schema.write(path, {"version": 1}, "baselines")
            self.assertFalse(path.exists())
            schema.write(path, baselines(), "baselines")
            self.assertEqual(json.loads(path.read_text(encoding="utf-8")), baselines())


if __name__ == "__main__":
    unittest.main()
