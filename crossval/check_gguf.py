#!/usr/bin/env python3
"""Does PyPI `gguf` read a file of ours, and see the same numbers?

    cargo run --release -p xtask -- gen-fixtures --size small --output /tmp/fixtures --type tq2_0
    cargo run --release -p xtask -- tensor-hashes /tmp/fixtures/bitnet-small-tq2_0.gguf > /tmp/hashes.json
    pip install gguf numpy
    python crossval/check_gguf.py /tmp/fixtures/bitnet-small-tq2_0.gguf /tmp/hashes.json

Compares names, types, shapes and the SHA-256 of every tensor as float32 after PyPI gguf's own dequantisation.
(I2_S is not a type of mainline GGUF: such files cannot be checked this way.)
"""

import hashlib
import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def main(path: str, hashes: str) -> int:
    with open(hashes, encoding="utf-8") as file:
        expected = json.load(file)
    reader = GGUFReader(path)
    failures = 0
    seen = set()
    for tensor in reader.tensors:
        seen.add(tensor.name)
        ours = expected.get(tensor.name)
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype="<f4")
        found = {
            "type": tensor.tensor_type.name,
            "shape": [int(n) for n in reversed(tensor.shape)],
            "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        }
        if found != ours:
            failures += 1
            print(f"{tensor.name}: {found} here, {ours} there")
    for name in sorted(set(expected) - seen):
        failures += 1
        print(f"{name}: not seen by PyPI gguf")
    print(f"{path}: {len(seen)} tensors, {len(reader.fields)} fields, {failures} differences")
    return 1 if failures or not seen else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
