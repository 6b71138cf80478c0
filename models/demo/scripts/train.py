"""Trains the demo model on CPU from the generator in data.py: Muon for the matrices of the blocks, AdamW for the rest."""
import argparse
import fcntl
import json
import pathlib
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from data import R, build_tokenizer, encode, make_doc, tool_doc
from model import new_model, wire

class Muon(torch.optim.Optimizer):
    """Momentum, then an approximate orthogonalisation of each update by a Newton-Schulz iteration."""

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            buf = self.state[p].setdefault("buf", torch.zeros_like(p))
            x = p.grad.lerp(buf.lerp_(p.grad, 0.05), 0.95)
            tall = x.shape[0] > x.shape[1]
            x = (x.T if tall else x) / (x.norm() + 1e-7)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            p.add_(x.T if tall else x, alpha=-self.param_groups[0]["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)

def machine_lock(path):
    """Shares the machine with benchmarks: a file that is locked until it is closed, which is after one step."""
    f = pathlib.Path(path or "/dev/null").open("w")
    if path:
        fcntl.flock(f, fcntl.LOCK_EX)
    return f

def pad(batch):
    n = max(len(ids) for ids, _ in batch)
    return torch.tensor([i + [0] * (n - len(i)) for i, _ in batch]), torch.tensor([w + [0.0] * (n - len(w)) for _, w in batch])

def batches(tok, r, a):
    """Endless batches of about a.tokens tokens; the documents of one batch have similar lengths and are never joined."""
    made = 0
    while True:
        docs = [encode(tok, make_doc(r, made < a.easy), a.plain) for _ in range(256)]
        docs, out = sorted((d for d in docs if len(d[0]) <= 1536), key=lambda d: len(d[0])), [[]]
        for d in docs:
            if (len(out[-1]) + 1) * len(d[0]) > a.tokens:
                out.append([])
            out[-1].append(d)
        r.shuffle(out)
        made += sum(len(ids) for ids, _ in docs)
        yield from map(pad, filter(None, out))

@torch.no_grad()
def exact(model, docs):
    """Shares of held-out calls and of final answers whose every token is the most likely one (so greedy decoding is exact)."""
    call = answer = 0
    for i in range(0, len(docs), 8):
        ids, w = (t.to(model.device) for t in pad(docs[i:i + 8]))
        wrong = (model(ids[:, :-1], use_cache=False).logits.argmax(-1) != ids[:, 1:]) & (w[:, 1:] > 0)
        for row, weight in zip(wrong, w[:, 1:]):
            end = int(((weight[:-1] > 0) & (weight[1:] == 0)).int().argmax()) + 1  # the first stretch is the call, the second the answer
            call, answer = call + (not bool(row[:end].any())), answer + (not bool(row[end:].any()))
    return call / len(docs), answer / len(docs)

def main():
    a = argparse.ArgumentParser(description="Stops after --minutes or --steps. --tokens are per step, --easy counts tokens of short documents at the start, --plain is the "
                                "loss weight of what the assistant does not write, --decay the share of the run with a falling rate, --lock a file to hold during each step, --init a model folder to continue from, --tokenizer its tokenizer.json.")
    for name, value in dict(out="run", minutes=60.0, steps=10**9, tokens=3072, easy=200_000, plain=0.15, lr=0.012, decay=0.5, lock="", device="cpu", init="", tokenizer="", seed=1).items():
        a.add_argument(f"--{name}", type=type(value), default=value)
    a = a.parse_args()
    out = pathlib.Path(a.out)
    out.mkdir(exist_ok=True)
    torch.manual_seed(a.seed)
    tok = Tokenizer.from_file(a.tokenizer) if a.tokenizer else build_tokenizer()
    tok.save(str(out / "tokenizer.json"))
    model = new_model(tok)
    wire(model)
    if a.init:
        model = model.from_pretrained(a.init, dtype=torch.float32, max_position_embeddings=2048)
    model.to(a.device)
    r = R(99, held=True)
    docs = sorted((encode(tok, tool_doc(r, "single"), 0.0) for _ in range(64)), key=lambda d: len(d[0]))
    named = list(model.named_parameters())
    rest = [p for n, p in named if "proj" not in n]
    opts = [(Muon([p for n, p in named if "proj" in n], {"lr": 0}), a.lr), (torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0), a.lr / 5)]
    print(f"{sum(p.numel() for _, p in named)} parameters", flush=True)
    begun = saved = time.time()
    step, seen, mean, best = 0, 0, None, -1.0
    stream = batches(tok, R(a.seed + 1), a)
    done = lambda: max(step / a.steps, (time.time() - begun) / 60 / a.minutes)
    while done() < 1:
        ids, weights = (t.to(a.device) for t in next(stream))
        scale = min(1, (step + 1) / 40) * min(1, (1 - done()) / a.decay + 0.01)
        with machine_lock(a.lock):
            clock = time.time()
            with torch.autocast(a.device, torch.bfloat16):
                logits = model(ids[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            loss = loss @ weights[:, 1:].flatten() / weights[:, 1:].sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(rest, 1.0)
            for opt, lr in opts:
                opt.param_groups[0]["lr"] = lr * scale
                opt.step()
                opt.zero_grad()
            spent = time.time() - clock
        step, seen = step + 1, seen + ids.numel()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 20 == 0:
            print(f"step {step} minutes {(time.time() - begun) / 60:.1f} tokens {seen} loss {mean:.3f} rate {scale:.2f} tokens/s {ids.numel() / spent:.0f}", flush=True)
        if time.time() - saved > 600 or done() >= 1:
            saved = time.time()
            with machine_lock(a.lock):
                call, answer = exact(model, docs)
            if call + answer >= best:
                best = call + answer
                model.save_pretrained(out / "best")
            print(json.dumps({"step": step, "minutes": round((saved - begun) / 60, 1), "tokens": seen, "call": call, "answer": answer, "loss": round(mean, 3)}), flush=True)

if __name__ == "__main__":
    main()
