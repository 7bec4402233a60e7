#!/usr/bin/env python3
"""Golden logits of small random models, computed by Hugging Face transformers.

    make_golden.py --out tests/golden/forward                         all cases
    make_golden.py --out DIR --suffix=-tf4 llama-gqa opt-350m-layout  some, under other names

Float32, eager attention (sdpa for ALiBi), CPU. README.md beside this file describes the output.
"""
import argparse
import json
import math
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file

MASK = (1 << 64) - 1


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 & MASK
    return h


def splitmix64_finalizer(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name, n):
    """n doubles in [0, 1), multiples of 2^-24, that depend on the name and the index only."""
    i = np.arange(n, dtype=np.uint64)
    h = splitmix64_finalizer(np.uint64(fnv1a64(name)) + i * np.uint64(0x9E3779B97F4A7C15))
    return (h >> np.uint64(40)).astype(np.float64) / (1 << 24)


def weights(t):
    u = uniform(t["name"], math.prod(t["shape"]))
    return (t["offset"] + (u - 0.5) * t["scale"]).astype(np.float32).reshape(t["shape"])


def tensor_entry(name, shape, tied):
    """Scales by kind. A uniform variable of width s has the deviation s / sqrt(12); `spread`
    is the deviation of a product with inputs of deviation 1. Scales are multiples of 1/1024,
    so that offset + (u - 0.5) * scale is exact in float64."""
    part = name.split(".")[-2]
    offset = 0.0
    if name.endswith(".bias"):
        scale = 0.3125
    elif len(shape) == 1:
        offset, scale = 1.0, 0.625                          # gains
    elif part in ("embed_tokens", "word_embeddings"):
        # the same matrix makes the logits where it is tied
        scale = (12 / shape[1]) ** 0.5 * 2.0 if tied else 12 ** 0.5
    elif part == "embed_positions":
        scale = 1.0
    else:
        spread = {"q_proj": 1.6, "k_proj": 1.6, "query_key_value": 1.6, "lm_head": 2.0}.get(part, 1.0)
        scale = (12 / shape[1]) ** 0.5 * spread
    return {"name": name, "shape": list(shape), "scale": round(scale * 1024) / 1024, "offset": offset}


OPT = dict(hidden_size=48, word_embed_proj_dim=48, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4,
           vocab_size=80, max_position_embeddings=64, dropout=0.0, pad_token_id=1, bos_token_id=2, eos_token_id=2)
LLAMA = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, vocab_size=80,
             max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None)
FALCON = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=80,
              max_position_embeddings=128, bos_token_id=1, eos_token_id=2)
NEW = dict(new_decoder_architecture=True, num_kv_heads=2, bias=False, alibi=False, parallel_attn=True)
ROPE_LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)

# name: (model type, keys of the configuration, keys of the case)
CASES = {
    "opt-pre-norm": ("opt", OPT, dict(greedy=8)),
    "opt-post-norm": ("opt", OPT | dict(do_layer_norm_before=False), {}),
    "opt-350m-layout": ("opt", OPT | dict(do_layer_norm_before=False, word_embed_proj_dim=32), {}),
    "opt-projections-pre-norm": ("opt", OPT | dict(word_embed_proj_dim=32), {}),
    "opt-no-bias": ("opt", OPT | dict(enable_bias=False), {}),
    "opt-norms-without-gain": ("opt", OPT | dict(layer_norm_elementwise_affine=False), {}),
    "opt-no-final-norm": ("opt", OPT | dict(_remove_final_layer_norm=True), {}),
    "opt-gelu": ("opt", OPT | dict(activation_function="gelu", ffn_dim=112, num_attention_heads=6), {}),
    "opt-untied": ("opt", OPT | dict(tie_word_embeddings=False), {}),
    "opt-short-names": ("opt", OPT, dict(strip="model.")),

    "llama-mha": ("llama", LLAMA, dict(greedy=8)),
    "llama-gqa": ("llama", LLAMA | dict(num_key_value_heads=2, num_hidden_layers=3), {}),
    "llama-mqa": ("llama", LLAMA | dict(num_key_value_heads=1), {}),
    "llama-tied": ("llama", LLAMA | dict(tie_word_embeddings=True, num_key_value_heads=2), {}),
    "llama-attention-bias": ("llama", LLAMA | dict(attention_bias=True, num_key_value_heads=2), {}),
    "llama-mlp-bias": ("llama", LLAMA | dict(mlp_bias=True), {}),
    "llama-wide-heads": ("llama", LLAMA | dict(hidden_size=40, head_dim=16, num_key_value_heads=2), {}),
    "llama-theta": ("llama", LLAMA | dict(rope_theta=500000.0, rms_norm_eps=1e-6), {}),
    "llama-rope-linear": ("llama", LLAMA | dict(rope_scaling=dict(rope_type="linear", factor=4.0)), {}),
    "llama-rope-linear-type": ("llama", LLAMA | dict(rope_scaling=dict(type="linear", factor=4.0)), {}),
    "llama-rope-llama3": ("llama", LLAMA | dict(hidden_size=64, num_key_value_heads=2, rope_scaling=ROPE_LLAMA3),
                          dict(tokens=60)),
    "mistral": ("mistral", LLAMA | dict(num_key_value_heads=2, sliding_window=None), {}),
    "mistral-wide-heads": ("mistral", LLAMA | dict(num_key_value_heads=2, sliding_window=None, head_dim=20), {}),
    "qwen2": ("qwen2", LLAMA | dict(num_key_value_heads=2, rope_theta=1000000.0, rms_norm_eps=1e-6), {}),
    "qwen2-tied": ("qwen2", LLAMA | dict(num_key_value_heads=2, tie_word_embeddings=True), {}),

    "falcon-7b-layout": ("falcon", FALCON | dict(multi_query=True, parallel_attn=True, bias=False), dict(greedy=8)),
    "falcon-40b-layout": ("falcon", FALCON | NEW, {}),
    "falcon-40b-groups": ("falcon", FALCON | NEW | dict(num_attention_heads=8, ffn_hidden_size=160), {}),
    "falcon-11b-layout": ("falcon", FALCON | NEW | dict(num_ln_in_parallel_attn=1), {}),
    "falcon-rw-layout": ("falcon", FALCON | dict(alibi=True, multi_query=False, parallel_attn=False, bias=True), {}),
    "falcon-alibi-long": ("falcon", FALCON | dict(hidden_size=48, num_attention_heads=6, alibi=True,
                                                  multi_query=False, parallel_attn=False, bias=True),
                          dict(tokens=60)),
    "falcon-alibi-12-heads": ("falcon", FALCON | dict(hidden_size=48, num_attention_heads=12, alibi=True,
                                                      multi_query=False, parallel_attn=False, bias=True),
                              dict(tokens=60)),
    "falcon-alibi-parallel": ("falcon", FALCON | dict(alibi=True, multi_query=True, parallel_attn=True), {}),
    "falcon-sequential-multi-query": ("falcon", FALCON | dict(multi_query=True, parallel_attn=False), {}),
    "falcon-sequential-heads": ("falcon", FALCON | dict(multi_query=False, parallel_attn=False), {}),
    "falcon-parallel-heads-bias": ("falcon", FALCON | dict(multi_query=False, parallel_attn=True, bias=True), {}),
    "falcon-40b-bias": ("falcon", FALCON | NEW | dict(bias=True), {}),
    "falcon-theta": ("falcon", FALCON | dict(multi_query=True, rope_theta=500042.0), {}),
    "falcon-untied": ("falcon", FALCON | dict(multi_query=True, tie_word_embeddings=False), {}),
}
CLASSES = {"opt": "OPT", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "falcon": "Falcon"}


def make(name):
    kind, keys, case = CASES[name]
    config = getattr(transformers, CLASSES[kind] + "Config")(**keys)
    cls = getattr(transformers, CLASSES[kind] + "ForCausalLM")
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        # The library decides what a checkpoint holds; then its values are replaced.
        cls(config).save_pretrained(d)
        with safe_open(d / "model.safetensors", "np") as f:
            shapes = {n: f.get_slice(n).get_shape() for n in f.keys()}
        tied = "lm_head.weight" not in shapes
        tensors = [tensor_entry(n.removeprefix(case.get("strip", "")), shapes[n], tied) for n in sorted(shapes)]
        save_file({t["name"]: weights(t) for t in tensors}, d / "model.safetensors", {"format": "pt"})
        # Falcon's eager attention adds the ALiBi bias twice (seen in 4.46 and 5.23); sdpa, the default, once.
        attention = "sdpa" if kind == "falcon" and keys.get("alibi") else "eager"
        model, info = cls.from_pretrained(d, attn_implementation=attention, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], (name, info)
        model = model.float().eval()
        written = json.loads((d / "config.json").read_text())
    state = model.state_dict()
    for t in tensors:       # what runs is what the generator says
        key = t["name"] if t["name"] in state else "model." + t["name"]
        assert np.array_equal(state[key].numpy(), weights(t)), t["name"]

    n = case.get("tokens", 24)
    ids = [3 + int(u * (keys["vocab_size"] - 3)) for u in uniform("input_ids of " + name, n)]
    positions = [0, n // 3, 2 * n // 3, n - 1]
    run = lambda x: model(input_ids=torch.tensor([x]), use_cache=False).logits[0].float()
    with torch.no_grad():
        logits = run(ids)
        out = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
               "config": written, "tensors": tensors,
               "probe": {"name": tensors[0]["name"], "values": floats(weights(tensors[0]).ravel()[:3])},
               "input_ids": ids, "positions": positions, "logits": [floats(logits[p].numpy()) for p in positions]}
        text = list(ids)
        gap = math.inf
        for _ in range(case.get("greedy", 0)):
            row = run(text)[-1]
            top = row.topk(2)
            gap = min(gap, (top.values[0] - top.values[1]).item())
            text.append(int(top.indices[0]))
        if case.get("greedy"):
            out["greedy"] = {"ids": text[n:], "smallest_gap": float(f"{gap:.4g}")}
        # How much order matters, to see that the case tests positions and attention at all.
        shuffled = run(ids[:-2][::-1] + ids[-2:])[-1]
    note = "logits %.2f..%.2f, %.2f apart when the context is reversed" % (
        logits.min(), logits.max(), (shuffled - logits[-1]).abs().max())
    return out, note


def floats(row):
    """Shortest decimal numbers that give the same float32."""
    return [float(str(np.float32(x))) for x in row]


def layout(value):
    """JSON with one line for each entry of the outer lists and objects."""
    lines = []
    for key, v in value.items():
        if isinstance(v, list) and v and isinstance(v[0], (dict, list)):
            v = "[\n" + ",\n".join("    " + json.dumps(x) for x in v) + "\n  ]"
        elif key == "config":
            v = "{\n" + ",\n".join(f"    {json.dumps(k)}: {json.dumps(x)}" for k, x in v.items()) + "\n  }"
        else:
            v = json.dumps(v)
        lines.append(f"  {json.dumps(key)}: {v}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--suffix", default="", help="appended to the names of the files")
    p.add_argument("names", nargs="*", help="cases (default: all)")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    a.out.mkdir(parents=True, exist_ok=True)
    for name in a.names or CASES:
        value, note = make(name)
        path = a.out / f"{name}{a.suffix}.json"
        path.write_text(layout(value))
        print(f"{path.name:40s} {path.stat().st_size:6d} bytes  {note}", flush=True)


if __name__ == "__main__":
    main()
