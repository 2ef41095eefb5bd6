"""Makes a small checkpoint with random weights, as transformers would save a trained one.

    python3 crossval/random_checkpoint.py FAMILY SEED DIRECTORY

Families: bitnet (ternary, ReLU², sub-norms, absmean at load), llama (dense), qwen3 (dense), qwen3-ternary (absmean at load).
"""

import json
import sys
from pathlib import Path

import torch
import transformers

SIZES = dict(
    vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online", "modules_to_not_convert": None}
FAMILIES = {
    "bitnet": (transformers.BitNetConfig, transformers.BitNetForCausalLM, {"hidden_act": "relu2", "tie_word_embeddings": True}, ONLINE),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"tie_word_embeddings": False}, None),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 64, "tie_word_embeddings": True}, None),
    "qwen3-ternary": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 64, "tie_word_embeddings": True}, ONLINE),
}


def main() -> None:
    family, seed, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    config_class, model_class, more, quantization = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**SIZES, **more))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                # embeddings of variance 1 / hidden keep the logits of a tied head near 1
                weight.normal_(std=0.08 if "proj" in name else 0.06)
    model.to(torch.bfloat16).save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if quantization:
        config["quantization_config"] = quantization
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
