"""Lists of logits as `bitnet logits` writes them: `logits.N`, f32 `[tokens, vocab]`, in a safetensors file."""

import json

import numpy


def write(path, lists):
    header, body = {}, []
    end = 0
    for index, rows in enumerate(lists):
        rows = numpy.ascontiguousarray(rows, dtype="<f4")
        begin, end = end, end + rows.nbytes
        header[f"logits.{index}"] = {"dtype": "F32", "shape": list(rows.shape), "data_offsets": [begin, end]}
        body.append(rows.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(body))
