"""llama.cpp beside our engine: speed, and logits (see conversation.py).

    pip install llama-cpp-python numpy
    yes bench | head -3 | python3 crossval/peer_llama_cpp.py MODEL.gguf --threads 2 --prompt 128 --new 64
"""

import time

import llama_cpp

import conversation


def main() -> None:
    args = conversation.arguments(__doc__).parse_args()
    start = time.perf_counter()
    # logits are compared with keys and values in f32, as ours are; speed is measured as llama.cpp comes
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "logits_all": True} if args.logits else {}
    model = llama_cpp.Llama(
        args.model,
        n_ctx=max(512, args.prompt + args.new + 8),
        n_batch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        verbose=False,
        **exact,
    )
    about = {"engine": f"llama.cpp in llama-cpp-python {llama_cpp.__version__}", "load_seconds": time.perf_counter() - start}
    ids = conversation.ids(args.prompt + args.new)

    def bench():
        model.reset()
        begin = time.perf_counter()
        model.eval(ids[: args.prompt])
        middle = time.perf_counter()
        for token in ids[args.prompt : -1]:
            model.eval([token])
        return middle - begin, time.perf_counter() - middle

    def logits(one):
        model.reset()
        model.eval(one)
        return model.scores[: len(one)].copy()

    conversation.answer(about, bench, logits)


if __name__ == "__main__":
    main()
