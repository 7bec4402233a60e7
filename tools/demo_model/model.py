"""The demo model in plain PyTorch: a small LLaMA (RMSNorm, rotary positions, grouped
queries, SwiGLU, tied output matrix).

Projections that share an input are one matrix here, because one large product trains
faster; `hf_tensors` cuts them apart and names them as Hugging Face checkpoints do.
"""
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Shape:
    vocab: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 768
    eps: float = 1e-5
    theta: float = 10000.0
    max_positions: int = 512

    @property
    def head_dim(self):
        return self.hidden // self.heads

    def hf_config(self, bos, eos, dtype="float16"):
        """config.json with the keys that every transformers version reads."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": bos, "eos_token_id": eos,
            "head_dim": self.head_dim, "hidden_act": "silu", "hidden_size": self.hidden,
            "initializer_range": 0.02, "intermediate_size": self.ffn,
            "max_position_embeddings": self.max_positions, "mlp_bias": False,
            "num_attention_heads": self.heads, "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads, "pretraining_tp": 1, "rms_norm_eps": self.eps,
            "rope_scaling": None, "rope_theta": self.theta, "tie_word_embeddings": True,
            "torch_dtype": dtype, "use_cache": True, "vocab_size": self.vocab}


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def attend(q, k, v):
    """Causal attention in two products: on a CPU its gradient is several times as fast as
    that of the fused kernel. The query heads of a group are stacked, so that keys and values
    need no copies. A single query attends to all keys."""
    b, heads, t, d = q.shape
    group = heads // k.shape[1]
    scores = (q * d ** -0.5).reshape(b, -1, group * t, d) @ k.transpose(2, 3)
    if t > 1:
        future = torch.full((t, t), float("-inf"), dtype=scores.dtype).triu(1)
        scores = scores + future.repeat(group, 1)
    return (scores.softmax(-1).to(v.dtype) @ v).view(b, heads, t, d)


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        kv = s.kv_heads * s.head_dim
        self.norm1, self.norm2 = Norm(s.hidden, s.eps), Norm(s.hidden, s.eps)
        self.qkv = nn.Linear(s.hidden, s.hidden + 2 * kv, bias=False)
        self.out = nn.Linear(s.hidden, s.hidden, bias=False)
        self.gate_up = nn.Linear(s.hidden, 2 * s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x, cos, sin, past=None):
        """past: [keys, values] of earlier positions, extended in place, or None."""
        s, (b, t, _) = self.s, x.shape
        kv = s.kv_heads * s.head_dim
        qk, v = self.qkv(self.norm1(x)).split((s.hidden + kv, kv), -1)
        qk, v = (h.view(b, t, -1, s.head_dim).transpose(1, 2) for h in (qk, v))
        low, high = qk.chunk(2, -1)
        qk = torch.cat((low * cos - high * sin, high * cos + low * sin), -1)
        q, k = qk.split((s.heads, s.kv_heads), 1)
        if past is not None:
            if past:
                k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
            past[:] = [k, v]
        x = x + self.out(attend(q, k, v).transpose(1, 2).reshape(b, t, s.hidden))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class DemoModel(nn.Module):
    def __init__(self, shape=Shape()):
        super().__init__()
        s = self.shape = shape
        self.embed = nn.Embedding(s.vocab, s.hidden)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = Norm(s.hidden, s.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * s.layers) ** 0.5 if residual else 0.02)
        inv = s.theta ** (-torch.arange(0, s.head_dim, 2, dtype=torch.float64) / s.head_dim)
        angle = torch.arange(s.max_positions, dtype=torch.float64)[:, None] * inv
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def hidden_states(self, ids, past=None):
        """past: a list with one (at first empty) list per layer; None without a cache."""
        at = past[0][0].shape[2] if past and past[0] else 0
        x = self.embed(ids)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        cos, sin = (c[at:at + ids.shape[1]].to(dtype) for c in (self.cos, self.sin))
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, past[i] if past else None)
        return self.norm(x)

    def forward(self, ids, past=None):
        return F.linear(self.hidden_states(ids, past), self.embed.weight)

    def hf_tensors(self):
        """The weights by their Hugging Face names (views, no copies)."""
        s = self.shape
        kv = s.kv_heads * s.head_dim
        t = {"model.embed_tokens.weight": self.embed.weight, "model.norm.weight": self.norm.weight}
        for i, b in enumerate(self.blocks):
            q, k, v = b.qkv.weight.split((s.hidden, kv, kv))
            gate, up = b.gate_up.weight.split((s.ffn, s.ffn))
            parts = {"input_layernorm": b.norm1.weight, "post_attention_layernorm": b.norm2.weight,
                     "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
                     "self_attn.o_proj": b.out.weight,
                     "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": b.down.weight}
            t.update({f"model.layers.{i}.{n}.weight": w for n, w in parts.items()})
        return {n: w.detach() for n, w in t.items()}

    def load_hf(self, tensors):
        """The reverse of hf_tensors."""
        with torch.no_grad():
            for name, view in self.hf_tensors().items():
                view.copy_(tensors[name])
        return self


def save_checkpoint(path, model, **extra):
    torch.save({"shape": asdict(model.shape), "state": model.state_dict(), **extra}, path)


def load_checkpoint(path):
    """-> (model, the extra entries)."""
    c = torch.load(path, map_location="cpu", weights_only=True)
    model = DemoModel(Shape(**c.pop("shape")))
    model.load_state_dict(c.pop("state"))
    return model, c
