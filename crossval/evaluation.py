"""Scores of evaluation sets by Hugging Face transformers, for tests of `bitnet eval`.

    python evaluation.py MODEL_DIR EVAL_DIR

Prints, per set, the number right by the likelihood of the whole continuation and per character, and the sum of all
log-likelihoods. Continuations are scored as in lm-evaluation-harness: context and continuation are encoded together.
"""

import gzip
import json
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SETS = {
    "copa.jsonl": 100,
    "winograd_wsc.jsonl": 100,
    "arc_easy.jsonl.gz": 60,
    "lambada_openai.jsonl.gz": 60,
    "blimp.jsonl.gz": 150,
    "bigbench_strange_stories.jsonl": 20,
}


def lines(path, limit):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(limit), file)]


def pairs(item):
    """(context, continuation) of every alternative, and the right one."""
    if "query" in item:
        query = item["query"].rstrip()
        if query.startswith(("Question:", "Passage:")):
            query += "\nAnswer:"
        return [(query, " " + choice.strip()) for choice in item["choices"]], item["gold"]
    if "context_options" in item:
        return [(c.rstrip(), " " + item["continuation"].strip()) for c in item["context_options"]], item["gold"]
    if "sentence_good" in item:
        return [("", item["sentence_good"]), ("", item["sentence_bad"])], 0
    return [(item["context"].rstrip(), " " + item["continuation"].strip())], 0


def main():
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    bos, context_length = model.config.bos_token_id, model.config.max_position_embeddings

    def encode(text):
        return [bos] + tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def score(context, continuation):
        ids = encode(context + continuation)
        first = len(encode(context))
        start = max(0, len(ids) - 1 - context_length)
        logits = model(torch.tensor([ids[start:-1]])).logits[0].double().log_softmax(-1)
        rows = logits[first - 1 - start :]
        targets = torch.tensor(ids[first:])
        return rows.gather(1, targets[:, None]).sum().item(), bool((rows.argmax(-1) == targets).all())

    for name, limit in SETS.items():
        items = lines(f"{sys.argv[2]}/{name}", limit)
        raw = by_length = 0
        total = 0.0
        for item in items:
            alternatives, gold = pairs(item)
            scores = [score(*pair) for pair in alternatives]
            total += sum(s for s, _ in scores)
            if len(scores) == 1:
                raw += scores[0][1]
                continue
            best = max(range(len(scores)), key=lambda i: scores[i][0])
            normed = max(range(len(scores)), key=lambda i: scores[i][0] / len(alternatives[i][1].strip()))
            raw, by_length = raw + (best == gold), by_length + (normed == gold)
        print(json.dumps({"set": name, "items": len(items), "raw": raw, "by_length": by_length, "sum": total}))


if __name__ == "__main__":
    main()
