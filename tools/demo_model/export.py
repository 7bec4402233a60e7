#!/usr/bin/env python3
"""Write the trained model as a Hugging Face folder (F16), with outlier channels.

    export.py --run RUN --out models/demo

The outlier channels are a rescaling that leaves the function alone. At the input of
attention and MLP the gain of the norm is multiplied by c in a few channels, the same in all
layers, and the columns of q, k, v (gate, up) that read these channels are divided by c. Before
down_proj a few rows of up_proj are multiplied by c and the columns of down_proj divided by c.
All c are powers of two, so in F16 only values that become subnormal lose bits.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file

from folder import open_folder
from model import DemoModel, load_checkpoint
from train import BOS, EOS, write_json

NORM_FACTORS = (16, 16, 16, 16, 16, 16)
MLP_FACTORS = (32, 16, 16, 16)
READERS = {"input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
           "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj")}


def choose(shape, seed):
    """Random channels: one list for all norms, one per layer for the MLP."""
    rng = np.random.default_rng(seed)

    def draw(width, factors):
        at = rng.choice(width, len(factors), replace=False)
        return [{"channel": int(c), "factor": f} for c, f in zip(at, factors)]

    return {"norms": draw(shape.hidden, NORM_FACTORS),
            "down_proj": [draw(shape.ffn, MLP_FACTORS) for _ in range(shape.layers)]}


def rescale(tensors, shape, outliers):
    """The rescaling in place."""
    for i in range(shape.layers):
        at = lambda name: tensors[f"model.layers.{i}.{name}.weight"]
        for norm, readers in READERS.items():
            for o in outliers["norms"]:
                at(norm)[o["channel"]] *= o["factor"]
                for r in readers:
                    at(r)[:, o["channel"]] /= o["factor"]
        for o in outliers["down_proj"][i]:
            at("mlp.up_proj")[o["channel"]] *= o["factor"]
            at("mlp.down_proj")[:, o["channel"]] /= o["factor"]


@torch.no_grad()
def input_maxima(model, ids):
    """Largest |x| per channel at the three inputs of every layer -> {name: [layers, channels]}."""
    seen, hooks = {}, []
    for block in model.blocks:
        for name, part in (("q_proj", block.qkv), ("gate_proj", block.gate_up), ("down_proj", block.down)):
            note = lambda m, x, name=name: seen.setdefault(name, []).append(x[0].abs().amax((0, 1)))
            hooks.append(part.register_forward_pre_hook(note))
    model(ids)
    for h in hooks:
        h.remove()
    return {k: torch.stack(v) for k, v in seen.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--run", type=pathlib.Path, required=True)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--seed", type=int, default=7)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    trained, extra = load_checkpoint(a.run / "state.pt")
    shape = trained.shape
    plain = {n: w.half() for n, w in trained.hf_tensors().items()}
    outliers = choose(shape, a.seed)
    scaled = {n: w.clone() for n, w in plain.items()}
    rescale(scaled, shape, outliers)
    assert all(torch.isfinite(w).all() for w in scaled.values())

    save_file(scaled, a.out / "model.safetensors", {"format": "pt"})
    (a.out / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(a.run / name, a.out / name)
    added = {t["content"]: t["id"] for t in json.loads((a.out / "tokenizer.json").read_text())["added_tokens"]}
    bos, eos = added[BOS], added[EOS]
    write_json(a.out / "config.json", shape.hf_config(bos, eos))
    write_json(a.out / "generation_config.json", {
        "bos_token_id": bos, "do_sample": True, "eos_token_id": eos, "temperature": 0.8, "top_p": 0.95})

    held = torch.from_numpy(np.load(a.run / "ids.npz")["held"][:16 * 256].astype(np.int64)).view(16, 256)
    before = DemoModel(shape).load_hf({n: w.double() for n, w in plain.items()}).double()
    after = open_folder(a.out)[0].double()
    with torch.no_grad():
        x, y, z = trained(held), before(held), after(held)
    print("step %d; largest logit %.2f; from rounding to F16 %.3g; from the rescaling %.3g" % (
        extra["step"], z.abs().max(), (x - y).abs().max(), (y - z).abs().max()))
    assert (y - z).abs().max() < 1e-3
    maxima = {}
    for name, m in input_maxima(after, held).items():
        top, median = m.amax(1).median().item(), m.median(1).values.median().item()
        maxima[name] = {"largest": round(top, 2), "median": round(median, 2), "ratio": round(top / median, 1)}
        print(name, maxima[name])
    # one line per list of channels
    lines = ['  "norms": %s' % json.dumps(outliers["norms"]),
             '  "down_proj": [\n%s\n  ]' % ",\n".join("    " + json.dumps(l) for l in outliers["down_proj"]),
             '  "input_maxima": %s' % json.dumps(maxima),
             '  "largest_logit_change": %s' % json.dumps(float("%.3g" % (y - z).abs().max()))]
    (a.out / "outliers.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
