"""The most likely tokens of an exported model by Hugging Face transformers: values for a test of export.

    python exported.py BITNET MODEL_DIR OUT.json < TEXT

MODEL_DIR is what `bitnet train` wrote. `BITNET export` makes a directory with packed codes of it. Both are loaded by transformers
in float32 and read pieces of the text, 60 tokens each.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SEQUENCES, LENGTH = 4, 60


def main():
    bitnet, directory, out = sys.argv[1:]
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = tokenizer(sys.stdin.read(), add_special_tokens=False)["input_ids"]
    ids = [text[i * LENGTH : (i + 1) * LENGTH] for i in range(SEQUENCES)]
    result = {"ids": ids}
    with tempfile.TemporaryDirectory() as temporary:
        packed = str(Path(temporary) / "packed")
        subprocess.run([bitnet, "export", "--model", directory, "--output", packed, "--type", "hf-packed"], check=True)
        for form, path in [("hf", directory), ("hf-packed", packed)]:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
            model = torch.nn.Module.float(model).eval()
            with torch.no_grad():
                logits = [model(torch.tensor([sequence]), use_cache=False).logits[0] for sequence in ids]
            best = [row.topk(2, -1).values for row in logits]
            print(form, "smallest lead of the first token", min((b[:, 0] - b[:, 1]).min().item() for b in best))
            result[form] = [row.argmax(-1).tolist() for row in logits]
    Path(out).write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
