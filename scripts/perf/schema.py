"""The part of JSON Schema that the schemas of this project use, and files that must follow one.

Known: type, const, enum, required, properties, additionalProperties, items, minItems, minimum, exclusiveMinimum, minLength, pattern, anyOf,
and $ref into $defs. Anything else in a schema is an error, so that no rule is passed over silently.
"""

import json
import math
import re
from pathlib import Path

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
}
REMARKS = {"$schema", "$id", "$defs", "title", "description"}


class Unreadable(Exception):
    """A file that is missing, no JSON, or not what its schema says."""


def violations(value, schema, root=None, where="$"):
    """What is wrong with `value`: a list of texts."""
    root = schema if root is None else root
    wrong = []
    for rule, wanted in schema.items():
        if rule in REMARKS:
            continue
        if rule == "$ref":
            name = wanted.removeprefix("#/$defs/")
            wrong += violations(value, root["$defs"][name], root, where)
        elif rule == "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            if not any(TYPES[name](value) for name in names):
                wrong.append(f"{where}: {type(value).__name__} instead of {' or '.join(names)}")
        elif rule == "const":
            if value != wanted:
                wrong.append(f"{where}: {value!r} instead of {wanted!r}")
        elif rule == "enum":
            if value not in wanted:
                wrong.append(f"{where}: {value!r} is none of {wanted}")
        elif rule == "anyOf":
            tries = [violations(value, one, root, where) for one in wanted]
            if all(tries):
                wrong.append(f"{where}: fits none of the alternatives: " + "; ".join(one[0] for one in tries))
        elif rule == "required":
            if isinstance(value, dict):
                wrong += [f"{where}: {name} is missing" for name in wanted if name not in value]
        elif rule == "properties":
            if isinstance(value, dict):
                for name, one in wanted.items():
                    if name in value:
                        wrong += violations(value[name], one, root, f"{where}.{name}")
        elif rule == "additionalProperties":
            if isinstance(value, dict):
                for name in value.keys() - schema.get("properties", {}).keys():
                    if wanted is False:
                        wrong.append(f"{where}: {name} is unknown")
                    elif wanted is not True:
                        wrong += violations(value[name], wanted, root, f"{where}.{name}")
        elif rule == "items":
            if isinstance(value, list):
                for index, one in enumerate(value):
                    wrong += violations(one, wanted, root, f"{where}[{index}]")
        elif rule == "minItems":
            if isinstance(value, list) and len(value) < wanted:
                wrong.append(f"{where}: {len(value)} items, at least {wanted} are needed")
        elif rule == "minLength":
            if isinstance(value, str) and len(value) < wanted:
                wrong.append(f"{where}: is shorter than {wanted}")
        elif rule == "pattern":
            if isinstance(value, str) and not re.search(wanted, value):
                wrong.append(f"{where}: {value!r} does not match {wanted}")
        elif rule == "minimum":
            if TYPES["number"](value) and not value >= wanted:
                wrong.append(f"{where}: {value} is below {wanted}")
        elif rule == "exclusiveMinimum":
            if TYPES["number"](value) and not value > wanted:
                wrong.append(f"{where}: {value} is not above {wanted}")
        else:
            raise ValueError(f"the schema rule {rule!r} is not known here")
    return wrong


def load_schema(name):
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


def _no_constant(text):
    raise ValueError(f"{text} is not a JSON number")


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def read(path, name):
    """The JSON in a file that must follow the schema `name`; raises Unreadable."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: {error}") from error
    wrong = violations(value, load_schema(name))
    if wrong:
        raise Unreadable(f"{path} does not follow {name}.schema.json: " + "; ".join(wrong[:5]))
    return value


def write(path, value, name):
    """Writes JSON that follows a schema; a program that made something else has an error, which must not become a file."""
    wrong = violations(value, load_schema(name))
    if wrong:
        raise ValueError(f"{path} would not follow {name}.schema.json: " + "; ".join(wrong[:5]))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
