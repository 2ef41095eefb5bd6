"""The same training in PyTorch, to compare speed and loss with `bitnet train`.

    bitnet train --config recipe.toml --output RUN        # with method = "adamw" and without average
    python3 train_torch.py RUN [--threads N] [--seconds S] # needs torch and tokenizers

Reads recipe.toml and tokenizer.json of the run: the same shape, texts, vocabulary, batches of the same size (other ones: each draws its
own), AdamW with the same rates, matrix products in bf16. Prints the loss as it falls, tokens per second, and the validation loss in float32.
With --seconds it stops after so long, to measure speed alone.
"""

import argparse
import math
import time
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

EPS = 1e-5


class BitLinear(nn.Linear):
    """Ternary weights by absmean, int8 activations by absmax, gradients straight through."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        x = x + ((x * scale).round() / scale - x).detach()
        mean = self.weight.abs().mean().clamp(min=1e-5)
        weight = self.weight + ((self.weight / mean).round().clamp(-1, 1) * mean - self.weight).detach()
        return F.linear(x, weight)


class Norm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPS)


class Block(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.heads, self.kv_heads, self.dim = m["heads"], m["kv_heads"], m["head_dim"]
        queries, keys = self.heads * self.dim, self.kv_heads * self.dim
        hidden, ffn = m["hidden"], m["ffn"]
        self.norm, self.ffn_norm = Norm(hidden), Norm(hidden)
        self.sub_norm, self.ffn_sub_norm = Norm(queries), Norm(ffn)
        self.q, self.k, self.v = BitLinear(hidden, queries), BitLinear(hidden, keys), BitLinear(hidden, keys)
        self.o = BitLinear(queries, hidden)
        self.gate, self.up, self.down = BitLinear(hidden, ffn), BitLinear(hidden, ffn), BitLinear(ffn, hidden)

    def forward(self, x, rope):
        batch, length, _ = x.shape
        split = lambda y, heads: y.view(batch, length, heads, self.dim).transpose(1, 2)
        h = self.norm(x)
        q, k, v = split(self.q(h), self.heads), split(self.k(h), self.kv_heads), split(self.v(h), self.kv_heads)
        q, k = rotate(q, rope), rotate(k, rope)
        # the fast attention of the CPU takes as many keys as queries
        k, v = (y.repeat_interleave(self.heads // self.kv_heads, 1) for y in (k, v.to(q.dtype)))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(self.sub_norm(h.transpose(1, 2).reshape(batch, length, -1)))
        h = self.ffn_norm(x)
        return x + self.down(self.ffn_sub_norm(F.relu(self.gate(h)) ** 2 * self.up(h)))


def rotate(x, rope):
    cos, sin = rope
    low, high = x.chunk(2, -1)
    return (x * cos + torch.cat((-high, low), -1) * sin).to(x.dtype)


class Network(nn.Module):
    def __init__(self, m, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, m["hidden"])
        self.blocks = nn.ModuleList(Block(m) for _ in range(m["layers"]))
        self.norm = Norm(m["hidden"])
        dim = m["head_dim"]
        angles = torch.arange(m["context"])[:, None] / m.get("rope_theta", 10000.0) ** (torch.arange(0, dim, 2) / dim)
        angles = torch.cat((angles, angles), -1)
        self.rope = angles.cos(), angles.sin()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids):
        x = self.embedding(ids)
        rope = [part[: ids.shape[1]] for part in self.rope]
        for block in self.blocks:
            x = block(x, rope)
        return F.linear(self.norm(x), self.embedding.weight)


def rate(o, step):
    steps, half = o["steps"], o["steps"] // 2
    if step < half:
        lr, decay = o["peak_lr"] * (1 - step / steps), o.get("weight_decay", 0.1)
    else:
        lr, decay = o["second_lr"] * (1 - (step - half) / (steps - half)), 0.0
    warmup = o.get("warmup", 0)
    return lr * ((step + 1) / warmup if step < warmup else 1), decay


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=math.inf)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(42)
    recipe = tomllib.loads((args.run / "recipe.toml").read_text())
    m, o = recipe["model"], recipe["optimizer"]
    tokenizer = Tokenizer.from_file(str(args.run / "tokenizer.json"))
    read = lambda sources: torch.tensor([i for s in sources for i in tokenizer.encode(Path(s["path"]).read_text()).ids])
    train, valid = read(recipe["data"]["train"]), read(recipe["data"]["validation"])
    network = Network(m, tokenizer.get_vocab_size())
    matrices = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() == 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(o.get("beta1", 0.9), o.get("beta2", 0.95)))
    context, batch = m["context"], o["batch"]
    start, warm = time.perf_counter(), 0.0
    step = 0
    while step < o["steps"] and time.perf_counter() - start < args.seconds:
        lr, decay = rate(o, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.param_groups[0]["weight_decay"] = decay
        first = torch.randint(len(train) - context - 1, (batch,))
        windows = torch.stack([train[i : i + context + 1] for i in first])
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(windows[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), o.get("clip", 1.0))
        optimizer.step()
        step += 1
        if step == 5:
            warm = time.perf_counter()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    speed = (step - 5) * batch * context / (time.perf_counter() - warm)
    print(f"{step} steps, {speed:.0f} tokens per second with {args.threads} threads (torch {torch.__version__})")
    if step == o["steps"]:
        with torch.no_grad():
            windows = [valid[i : i + context + 1] for i in range(0, len(valid) - 1, context)]
            nats = [F.cross_entropy(network(w[None, :-1])[0], w[1:], reduction="sum").item() for w in windows]
        print(f"validation {sum(nats) / (len(valid) - 1):.4f} nats per token")


if __name__ == "__main__":
    main()
