"""Reads the f32 tensors of a safetensors file (the dumps of `bitnet logits`)."""

import array
import json
import sys


def read(path):
    """Lists of rows by name."""
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] != "F32":
            raise ValueError(f"{path}: {name} is {tensor['dtype']}, not F32")
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        values = array.array("f", data[begin:end])
        if sys.byteorder == "big":
            values.byteswap()
        width = tensor["shape"][-1]
        tensors[name] = [values[start : start + width] for start in range(0, len(values), width)]
    return tensors
