#!/usr/bin/env python3
"""Reference figures of a model folder, computed by Hugging Face transformers in float32.

    reference.py --model models/demo [--out models/demo/reference.json] [TEXT ...]

Without TEXT: heldout.txt and calibration.txt of the folder. The texts are tokenised once
with bos in front and cut into windows of 256 that do not overlap; the incomplete last window
is dropped; the first token of a window is not predicted.
"""
import argparse
import json
import math
import pathlib

import torch
import torch.nn.functional as F
import transformers

PROMPTS = ("The old man looked at the sea, and", "\"My dear Mrs. Bennet,\" said he,", "It was a dark night in London")
WINDOW = 256


@torch.no_grad()
def perplexity(model, tok, path):
    ids = tok(path.read_bytes().decode())["input_ids"]
    windows = torch.tensor(ids[:len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    total = 0.0
    for w in windows.split(8):
        logits = model(input_ids=w, use_cache=False).logits[:, :-1]
        total += F.cross_entropy(logits.flatten(0, 1), w[:, 1:].flatten(), reduction="none").double().sum().item()
    n = len(windows) * (WINDOW - 1)
    return {"text": path.name, "tokens": len(ids), "windows": len(windows), "predictions": n,
            "mean_nll": round(total / n, 6), "perplexity": round(math.exp(total / n), 5)}


@torch.no_grad()
def greedy(model, tok, prompt, n=32):
    ids = tok(prompt)["input_ids"]
    start, gap = len(ids), math.inf
    for _ in range(n):
        best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids.append(int(best.indices[0]))
    return {"prompt": prompt, "prompt_ids": ids[:start], "greedy_ids": ids[start:],
            "greedy_text": tok.decode(ids[start:], clean_up_tokenization_spaces=False),
            "smallest_gap": round(gap, 5)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True)
    p.add_argument("--out", type=pathlib.Path)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("texts", nargs="*", type=pathlib.Path)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    transformers.logging.set_verbosity_error()
    tok = transformers.AutoTokenizer.from_pretrained(a.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.model, attn_implementation="eager").float().eval()
    texts = a.texts or [a.model / "heldout.txt", a.model / "calibration.txt"]
    rows = lambda entries: "[\n" + ",\n".join("    " + json.dumps(e, ensure_ascii=False) for e in entries) + "\n  ]"
    text = '{\n  "transformers": "%s",\n  "perplexity": %s,\n  "greedy": %s\n}\n' % (
        transformers.__version__, rows(perplexity(model, tok, t) for t in texts),
        rows(greedy(model, tok, x) for x in PROMPTS))
    print(text, end="")
    if a.out:
        a.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
