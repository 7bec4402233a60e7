"""A Hugging Face model folder as the demo model of model.py."""
import json
import pathlib

import tokenizers
from safetensors.torch import load_file

from model import DemoModel, Shape


def open_folder(folder):
    """-> (model in float32, tokenizer, id of bos, id of eos)."""
    folder = pathlib.Path(folder)
    c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(vocab=c["vocab_size"], hidden=c["hidden_size"], layers=c["num_hidden_layers"],
                  heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"], ffn=c["intermediate_size"],
                  eps=c["rms_norm_eps"], theta=c["rope_theta"], max_positions=c["max_position_embeddings"])
    tensors = {n: t.float() for n, t in load_file(folder / "model.safetensors").items()}
    model = DemoModel(shape).load_hf(tensors).eval()
    return model, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), c["bos_token_id"], c["eos_token_id"]
