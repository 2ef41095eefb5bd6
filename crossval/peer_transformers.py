"""Hugging Face transformers beside our engine, in float32 on the CPU: speed, and logits (see conversation.py).

    pip install torch transformers
    yes bench | head -3 | python3 crossval/peer_transformers.py DIRECTORY --threads 2 --prompt 128 --new 64
"""

import time

import torch
import transformers

import conversation


def main() -> None:
    args = conversation.arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    start = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    # norms and embeddings of a quantised checkpoint keep its dtype; Module.float casts what PreTrainedModel.float refuses to
    model = torch.nn.Module.float(model).eval()
    about = {
        "engine": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "load_seconds": time.perf_counter() - start,
    }
    vocab = model.config.vocab_size
    ids = torch.tensor([[token % vocab for token in conversation.ids(args.prompt + args.new)]])

    def bench():
        with torch.no_grad():
            begin = time.perf_counter()
            past = model(ids[:, : args.prompt], use_cache=True, logits_to_keep=1).past_key_values
            middle = time.perf_counter()
            for index in range(args.prompt, args.prompt + args.new - 1):
                past = model(ids[:, index : index + 1], past_key_values=past, use_cache=True).past_key_values
            return middle - begin, time.perf_counter() - middle

    def logits(one):
        with torch.no_grad():
            return model(torch.tensor([one]), use_cache=False).logits[0].float().numpy()

    conversation.answer(about, bench, logits)


if __name__ == "__main__":
    main()
