#!/usr/bin/env python3
"""Train the demo model and its tokenizer on a folder of plain-text novels.

    train.py --novels DIR --out RUN [--minutes 75 | --steps N]

RUN receives the tokenizer files, `ids.npz` (the tokenised text), `state.pt` (renewed every
few minutes, so that export.py may run at any time) and `log.jsonl`.
"""
import argparse
import json
import math
import os
import pathlib
import time

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import text
from model import DemoModel, save_checkpoint

BOS, EOS = "<|bos|>", "<|eos|>"


def write_json(path, value):
    pathlib.Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def train_tokenizer(out, texts, vocab):
    """A byte-level BPE in the Hugging Face form; bos goes in front of every text."""
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[BOS, EOS], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    bos = tok.token_to_id(BOS)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)])
    assert tok.get_vocab_size() == vocab, tok.get_vocab_size()
    tok.save(str(out / "tokenizer.json"))
    write_json(out / "special_tokens_map.json", {"bos_token": BOS, "eos_token": EOS})
    write_json(out / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False,
        "added_tokens_decoder": {str(tok.token_to_id(t)): {
            "content": t, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True} for t in (BOS, EOS)},
        "bos_token": BOS, "clean_up_tokenization_spaces": False, "eos_token": EOS,
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast"})
    return tok


def prepare(novels, out, vocab):
    """-> ids of the training text, starts of paragraphs in them, ids of the held-out text."""
    if not (out / "ids.npz").exists():
        parts = text.novels(novels)
        tok = train_tokenizer(out, (p for _, train, _ in parts for p in train.split("\n")), vocab)
        ends = [tok.token_to_id(EOS)]
        train = [tok.encode(t, add_special_tokens=True).ids + ends for _, t, _ in parts]
        held = [tok.encode(h, add_special_tokens=True).ids + ends for _, _, h in parts]
        train, held = (np.concatenate(x).astype(np.int32) for x in (train, held))
        newline = tok.encode("\n", add_special_tokens=False).ids
        assert len(newline) == 1
        starts = np.flatnonzero(train == newline[0]) + 1
        np.savez(out / "ids.npz", train=train, held=held, starts=starts, bos=tok.token_to_id(BOS),
                 bytes=[sum(len(x[k].encode()) for x in parts) for k in (1, 2)])
    z = np.load(out / "ids.npz")
    return z["train"], z["starts"], z["held"], int(z["bos"])


def draw(rng, ids, starts, bos, batch, context):
    """Half of the rows are bos and the beginning of a paragraph, half begin anywhere."""
    rows = np.empty((batch, context + 1), np.int64)
    last = len(ids) - context - 1
    for r in range(batch):
        if r % 2:
            at = rng.integers(last)
            rows[r] = ids[at:at + context + 1]
        else:
            at = min(starts[rng.integers(len(starts))], last)
            rows[r, 0], rows[r, 1:] = bos, ids[at:at + context]
    return torch.from_numpy(rows)


def loss_of(model, rows, bf16):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(rows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, ids, context, bf16, rows=10**9):
    """Mean loss over windows that do not overlap."""
    n = min(rows, len(ids) // (context + 1))
    windows = torch.from_numpy(ids[:n * (context + 1)].astype(np.int64)).view(n, context + 1)
    return sum(loss_of(model, w, bf16).item() * len(w) for w in windows.split(16)) / n


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--novels", required=True)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--minutes", type=float, default=75, help="the learning rate follows the clock")
    p.add_argument("--steps", type=int, help="follow the number of steps instead (repeatable)")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=20260)
    p.add_argument("--float32", action="store_true", help="no bfloat16 products")
    p.add_argument("--compile", action="store_true", help="with torch.compile; about twice as fast")
    p.add_argument("--save-minutes", type=float, default=5)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    model, bf16 = DemoModel(), not a.float32
    ids, starts, held, bos = prepare(a.novels, a.out, model.shape.vocab)
    compute_loss = torch.compile(loss_of) if a.compile else loss_of
    # Matrices of the blocks: Muon, with updates of the size that AdamW would make; the rest: AdamW.
    matrices = [w for w in model.blocks.parameters() if w.dim() == 2]
    gains = [w for w in model.parameters() if w.dim() == 1]
    optimizers = [
        torch.optim.Muon(matrices, lr=a.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": [model.embed.weight], "weight_decay": 0.1},
                           {"params": gains, "weight_decay": 0.0}],
                          lr=a.lr, betas=(0.9, 0.97), eps=1e-8, fused=True)]
    log = open(a.out / "log.jsonl", "w", buffering=1)

    def note(**entry):
        log.write(json.dumps(entry) + "\n")
        print(entry, flush=True)

    note(parameters=sum(w.numel() for w in model.parameters()), train_tokens=len(ids), held_tokens=len(held),
         torch=torch.__version__, tokenizers=tokenizers.__version__, batch=a.batch, context=a.context, lr=a.lr)

    def save(step):
        save_checkpoint(a.out / "state.new", model, step=step, seen=step * a.batch * a.context)
        os.replace(a.out / "state.new", a.out / "state.pt")

    begin = saved = time.time()
    mean, step = None, 0
    while True:
        minutes = (time.time() - begin) / 60
        done = step / a.steps if a.steps else minutes / a.minutes
        if done >= 1:
            break
        rate = a.lr * min(1, (step + 1) / a.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        for opt in optimizers:
            for g in opt.param_groups:
                g["lr"] = rate
            opt.zero_grad(set_to_none=True)
        loss = compute_loss(model, draw(rng, ids, starts, bos, a.batch, a.context), bf16)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in optimizers:
            opt.step()
        step += 1
        value = loss.item()
        mean = value if mean is None else mean + (value - mean) * max(0.01, 1 / step)
        if step % 100 == 0 or step == 10:
            entry = {"step": step, "minutes": round(minutes, 2), "loss": round(mean, 4),
                     "norm": round(norm.item(), 3), "lr": round(rate, 6)}
            if step % 500 == 0:
                entry["held_out"] = round(held_out_loss(model, held, a.context, bf16, 64), 4)
            note(**entry)
        if time.time() - saved > 60 * a.save_minutes:
            save(step)
            saved = time.time()
    save(step)
    note(final_step=step, tokens_seen=step * a.batch * a.context, minutes=round((time.time() - begin) / 60, 2),
         loss=round(mean, 4), held_out=round(held_out_loss(model, held, a.context, False), 4))


if __name__ == "__main__":
    main()
