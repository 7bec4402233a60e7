#!/usr/bin/env python3
"""Makes Hugging Face tokenizer folders of vocabularies that exist only in other forms.

    make_tokenizer_json.py DATA OUT

DATA is the folder with `tokenizers/` and `vectors/gguf-vocab/`; OUT gets one folder per family: gpt2, opt, neox,
llama2, llama3, falcon, qwen2, and with -files or -spm behind it the forms without tokenizer.json, each with a
`reference/tokenizer.json` for comparison. Only the standard library is needed.

A rank file (tiktoken) lists byte strings by rank and no merges. Its algorithm merges the adjacent pair whose
concatenation has the lowest rank, so every way to cut a token into two tokens is a merge with that token's rank.
"""
import base64
import json
import pathlib
import shutil
import struct
import sys

LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_symbols():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(moved)}}


SYMBOL = byte_symbols()


def added(id, content, special=True, normalized=False):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": special}


def byte_level(use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def template(token, id):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}}


def document(vocab, merges, added_tokens, pre_tokenizer, post_processor, normalizer=None, **model):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": byte_level(),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                      "merges": merges, **model}}


def merges_of_ranks(ranks):
    merges = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], left, right))
    text = lambda token: "".join(SYMBOL[b] for b in token)
    return [[text(left), text(right)] for _, _, _, left, right in sorted(merges)]


class Gguf:
    """The metadata of a GGUF file, version 2 or 3."""
    SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0
        assert self.data[:4] == b"GGUF", path
        self.at = 8
        self.number("Q")
        self.keys = {self.text(): self.value(self.number("I")) for _ in range(self.number("Q"))}

    def number(self, code):
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self):
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length:self.at].decode("utf-8")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(self.SCALARS[kind])


def merge_lines(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#version")]


def gpt2_style(tokens, merges, special_names, post_processor=None, pre_tokenizer=None):
    vocab = {token: i for i, token in enumerate(tokens)}
    specials = [added(vocab[name], name) for name in special_names]
    return document(vocab, merges, specials, pre_tokenizer or byte_level(), post_processor or byte_level())


def opt(data):
    vocab = json.loads((data / "tokenizers/opt_metaseq/gpt2-vocab.json").read_text())
    merges = merge_lines(data / "tokenizers/opt_metaseq/gpt2-merges.txt")
    tokens = sorted(vocab, key=vocab.get)
    doc = gpt2_style(tokens, merges, ["<pad>", "</s>"], template("</s>", 2))
    for token in doc["added_tokens"]:
        token["normalized"] = True
    return doc


def llama3(data):
    ranks = {}
    for line in (data / "tokenizers/llama3/tokenizer.model").read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
             "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
             "<|eot_id|>", "<|python_tag|>"]
    names += ["<|reserved_special_token_%d|>" % i for i in range(2, 2 + 256 - len(names))]
    vocab = {"".join(SYMBOL[b] for b in token): rank for token, rank in ranks.items()}
    pre = {"type": "Sequence", "pretokenizers": [split(LLAMA3_WORDS), byte_level(False)]}
    post = {"type": "Sequence", "processors": [byte_level(), template("<|begin_of_text|>", len(ranks))]}
    specials = [added(len(ranks) + i, name) for i, name in enumerate(names)]
    return document(vocab, merges_of_ranks(ranks), specials, pre, post, ignore_merges=True)


def falcon(data):
    gguf = Gguf(data / "vectors/gguf-vocab/ggml-vocab-falcon.gguf").keys
    tokens = gguf["tokenizer.ggml.tokens"]
    specials = [t for t, kind in zip(tokens, gguf["tokenizer.ggml.token_type"]) if kind == 3 or t.startswith(">>")]
    pre = {"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(),
        {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")]}
    return gpt2_style(tokens, gguf["tokenizer.ggml.merges"], specials, None, pre)


def qwen2(data):
    vocab = json.loads((data / "tokenizers/qwen2/vocab.json").read_text())
    merges = merge_lines(data / "tokenizers/qwen2/merges.txt")
    specials = [added(len(vocab) + i, t) for i, t in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])]
    pre = {"type": "Sequence", "pretokenizers": [split(QWEN2_WORDS), byte_level(False)]}
    return document(vocab, merges, specials, pre, byte_level(), {"type": "NFC"})


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        name = name.replace("_json", ".json").replace("_txt", ".txt").replace("_model", ".model")
        if isinstance(content, pathlib.Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def main():
    data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    files = data / "tokenizers"
    write(out / "gpt2", tokenizer_json=files / "gpt2_hf/tokenizer.json")
    write(out / "gpt2-files/reference", tokenizer_json=files / "gpt2_hf/tokenizer.json")
    write(out / "gpt2-files", vocab_json=files / "gpt2_hf/vocab.json", merges_txt=files / "gpt2_hf/merges.txt",
          config_json={"model_type": "gpt2"})
    write(out / "opt", tokenizer_json=opt(data))
    write(out / "opt-files/reference", tokenizer_json=opt(data))
    write(out / "opt-files", vocab_json=files / "opt_metaseq/gpt2-vocab.json",
          merges_txt=files / "opt_metaseq/gpt2-merges.txt", config_json={"model_type": "opt"})
    write(out / "neox", tokenizer_json=files / "gpt-neox-20b/20B_tokenizer.json")
    write(out / "llama2", tokenizer_json=files / "llama2_hf/tokenizer.json")
    write(out / "llama2-spm", tokenizer_model=files / "llama2_hf/tokenizer.model")
    llama2 = json.loads((files / "llama2_hf/tokenizer.json").read_text(encoding="utf-8"))
    for token in llama2["added_tokens"]:
        token["normalized"] = False
    write(out / "llama2-spm/reference", tokenizer_json=llama2)
    write(out / "llama3", tokenizer_json=llama3(data))
    write(out / "falcon", tokenizer_json=falcon(data))
    write(out / "qwen2", tokenizer_json=qwen2(data))
    write(out / "qwen2-files/reference", tokenizer_json=qwen2(data))
    specials = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in qwen2(data)["added_tokens"]}
    write(out / "qwen2-files", vocab_json=files / "qwen2/vocab.json", merges_txt=files / "qwen2/merges.txt",
          config_json={"model_type": "qwen2"},
          tokenizer_config_json={"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": specials,
                                 "eos_token": "<|endoftext|>", "bos_token": None})


if __name__ == "__main__":
    main()
