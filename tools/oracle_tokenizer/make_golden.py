#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/components.json: what Hugging Face tokenizers (PyPI, 0.22.1) makes of small
tokenizers that exercise every component, one setting at a time.

    make_golden.py OUT.json

The model of most of them, "boundaries", has every character twice, as it is and with "</w>" behind it, which marks
the end of a piece: the ids show where a text was split. "encoded" has null where the ids are those of the first case
with the same model, "plain" (without special tokens) is null where it equals "encoded". Everything is made here; no
outside vocabulary or text.
"""
import itertools
import json
import random
import sys

from tokenizers import Tokenizer, normalizers

from make_tokenizer_json import LLAMA3_WORDS, QWEN2_WORDS, SYMBOL

BLANK = "\u2581"
STRINGS = [
    "", " ", "  ", "   ", "a", " a", "a ", "  a  b  ", "Hello, world!", "don't we'LL they've I'm it's 'tis",
    "one\ntwo\r\nthree\t\tfour\n\n\nfive   six", "\u00a0no\u2003break\u3000blank\u200bzero\ufeff", "caf\u00e9 cafe\u0301",
    "\u212b \ufb01sh \u2460 \u00bd \u00b2", "\u1112\u1161\u11ab \ud55c\uae00", "\u0130I\u0131 STRASSE stra\u00dfe \u03a3\u03a3",
    "x\u0323\u0307 \u0307\u0323y", "12 345 6789 1,234.5", "\u0663\u0664 \u0967 \u2167 \u00be3", "a1b22c333d4444",
    "!?...;;--++==<<>>", "$10 + 5% = (a_b)[c]{d}@e#f^g`h|i~j\\k/l", "\u00bfqu\u00e9? \u00abso\u00bb \u2014 \u2018x\u2019\u3002\uff01",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "xxaxxbxx", "abc abc", "   x\n   y\n", "\n", "\t \n a",
    BLANK + "a" + BLANK + BLANK + "b", " " + BLANK, "a" * 40, " " * 40 + "b", "<s>", "<s> a </s>", "a<s>b", "a <m> b",
    "a<m>b <m>  <m>", "wordy word wordword a word.", "  [N]  x [n] [N]y", "<<s>> <s", "A<X>b<x>C", "ab  <m>\u00e9", "\x00\x01 \x7f",
    "\ud7a3\ue000\ufffd\U0010ffff", "foo.bar,baz;qux", "The year 2023 was n\u00b0 1!", "\U0001357b's \U00016130", "ab" * 9 + "c",
]


def added(id, content, **flags):
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": id, "content": content, **token, **flags}


def bpe(vocab, merges=(), **settings):
    defaults = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **defaults, **settings, "vocab": {t: i for i, t in enumerate(vocab)}, "merges": list(merges)}


def alphabet():
    forms = [getattr(normalizers, name)() for name in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]]
    texts = STRINGS + [form.normalize_str(text) for form in forms for text in STRINGS]
    return sorted(set("".join(texts)) | set(SYMBOL.values()) | {BLANK, "-", "_"})


def words_vocab():
    """A small vocabulary with merges that compete."""
    base = [BLANK, *"abcdefghlmnorstuwxy.,!'", "\u00e9"]
    merges = ["a b", "ab c", "b c", "ab ab", "abab abab", "a bc", "o r", "w or", "wor d", BLANK + " a", BLANK + "a b",
              "l l", "e ll", "ell o", "h ello", "x x", "xx a", "a a", "aa aa", "aaaa aaaa"]
    tokens = base + sorted({m.replace(" ", "") for m in merges} - set(base))
    return tokens, merges


def models():
    characters = alphabet()
    boundaries = ["<unk>"] + characters + [c + "</w>" for c in characters]
    words, merges = words_vocab()
    hexes = ["<0x%02X>" % b for b in range(256)]
    symbols = sorted(SYMBOL.values())
    byte_merges = ["a b", "ab c", "\u0120 a", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120", "\u00c3 \u00a9", "o r", "w or", "\u0120 wor", "h e", "he l"]
    byte_tokens = symbols + [m.replace(" ", "") for m in byte_merges]
    odd = ["<unk>", BLANK, BLANK + "a", "a", "b</w>", "</w>", "c" + BLANK, " ", "  x ", "\u0120the", "\u00c3", "\u00a9", "\u00e4", "\u2764", "a b",
           "<0x+F>", "<0x4>", "<0xGG>", "<0xc3>", "xx", " y", "\u00ef\u00bf\u00bd"] + hexes
    return {
        "boundaries": bpe(boundaries, unk_token="<unk>", end_of_word_suffix="</w>"),
        "words": bpe(["<unk>"] + words, merges, unk_token="<unk>"),
        "words-fused": bpe(["<unk>"] + words, merges, unk_token="<unk>", fuse_unk=True),
        "words-dropping": bpe(words, merges),
        "words-whole": bpe(words, [m.split(" ") for m in merges[4:]], ignore_merges=True),
        "words-twice": bpe(words, merges + ["a b", "b c"]),
        "bytes-fallback": bpe(["<unk>"] + hexes + words, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        "some-bytes": bpe(["<unk>", "<0xC3>", "<0xA9>", "<0xE4>", "<0xBD>", "<0xA0>"] + words[:8] + ["ab", "abc", "bc"], merges[:3],
                          unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        "prefixed": bpe(["<unk>", *"abcx", "##a", "##b", "##c", "##x", "ab", "abc", "##bc", "##xx"],
                        ["a ##b", "ab ##c", "##b ##c", "##x ##x"], unk_token="<unk>", continuing_subword_prefix="##"),
        "byte-level": bpe(byte_tokens, byte_merges),
        "odd": bpe(odd, unk_token="<unk>", byte_fallback=True),
    }


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def template(single, ids):
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": list(i), "tokens": [name] * len(i)} for name, i in ids.items()}}


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def normalizer_settings():
    return [{"type": name} for name in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "ByteLevel"]] + [
        {"type": "Strip", "strip_left": left, "strip_right": right}
        for left, right in itertools.product([True, False], repeat=2)] + [
        {"type": "Prepend", "prepend": BLANK}, replace(" ", BLANK), replace("xx", ""), replace(".", "-"), replace("", "-"),
        replace(r"\s+", "_", "Regex"), replace("x*", "-", "Regex"), replace("^a|b$", "", "Regex"),
        sequence("normalizers"), sequence("normalizers", {"type": "Prepend", "prepend": BLANK}, replace(" ", BLANK)),
        sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"})]


def pre_tokenizer_settings():
    settings = [byte_level(p, r) for p, r in itertools.product([True, False], repeat=2)]
    for behavior in BEHAVIORS:
        settings += [split(r"\s+", behavior), split(r"\w+|,", behavior, True), split(" ", behavior, kind="String"),
                     {"type": "Punctuation", "behavior": behavior}]
    settings += [split("", kind="String"), split("x*"), split(r"(?=[A-Z])"), split(".", kind="String"), split(LLAMA3_WORDS),
                 {"type": "Punctuation"}, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}]
    settings += [{"type": "Digits", "individual_digits": one} for one in [True, False]]
    for scheme, cut in itertools.product(["always", "first", "never"], [True, False]):
        settings.append({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": cut})
    settings += [{"type": "Metaspace", "replacement": "_", "add_prefix_space": True},
                 {"type": "Metaspace", "replacement": BLANK, "str_rep": BLANK, "add_prefix_space": True},
                 {"type": "Metaspace", "replacement": BLANK, "add_prefix_space": False, "prepend_scheme": "never"}]
    falcon = [{"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), {"type": "Digits", "individual_digits": False},
              split("[0-9][0-9][0-9]")]
    settings += [sequence("pretokenizers"), sequence("pretokenizers", *falcon),
                 sequence("pretokenizers", split(LLAMA3_WORDS), byte_level(False, False)),
                 sequence("pretokenizers", split(QWEN2_WORDS), byte_level(False, False)),
                 sequence("pretokenizers", {"type": "WhitespaceSplit"}, {"type": "Punctuation"}),
                 sequence("pretokenizers", split("[a-z]+", "Removed"), {"type": "Metaspace", "replacement": BLANK,
                                                                        "prepend_scheme": "first", "split": True})]
    return settings


def added_token_settings(first):
    one = added(first, "<s>", special=True)
    return [
        [one, added(first + 1, "<m>", lstrip=True)], [one, added(first + 1, "<m>", rstrip=True)],
        [one, added(first + 1, "<m>", lstrip=True, rstrip=True), added(first + 2, "  ")],
        [added(first, "word", single_word=True), added(first + 1, "[N]", rstrip=True)],
        [added(first, "word"), added(first + 1, "wordword"), added(first + 2, "wordy")],
        [added(first, "<X>", normalized=True), added(first + 1, "[N]", normalized=True, single_word=True)],
        [added(first, "a", special=True), added(first + 1, "ab"), added(first + 2, "\u00e9", normalized=True)],
        [added(first, "<", single_word=True), added(first + 1, "\u4f60"), added(first + 2, "\n", rstrip=True)],
    ]


def numbered(tokens, vocab):
    """The ids that the reference gives: those of the vocabulary, the others behind it."""
    behind = itertools.count(len(vocab))
    return [{**token, "id": vocab.get(token["content"]) if token["content"] in vocab else next(behind)} for token in tokens]


def post_processor_settings():
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    roberta = {"type": "RobertaProcessing", "sep": ["b", 3], "cls": ["a", 2], "trim_offsets": True, "add_prefix_space": False}
    bos = template([special("a"), TEXT], {"a": [2]})
    return [bos, template([TEXT], {}), template([special("a"), special("b"), TEXT, special("a")], {"a": [2, 3], "b": [4]}),
            roberta, {"type": "BertProcessing", "sep": ["b", 3], "cls": ["a", 2]}, byte_level(),
            sequence("processors", byte_level(), bos), sequence("processors", roberta, byte_level())]


def decoder_settings():
    strip = lambda content, start, stop: {"type": "Strip", "content": content, "start": start, "stop": stop}
    fallback, fuse = {"type": "ByteFallback"}, {"type": "Fuse"}
    settings = [None, byte_level(), fallback, fuse, replace(BLANK, " "), replace("x+", "yy", "Regex"), replace("", "-"),
                {"type": "BPEDecoder", "suffix": "</w>"}, strip(" ", 1, 0), strip("a", 1, 1), strip("x", 2, 1)]
    for scheme in ["always", "first", "never"]:
        settings.append({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": True})
    chains = [[], [replace(BLANK, " "), fallback, fuse, strip(" ", 1, 0)], [fuse, replace("a", "bb")], [fuse, strip("a", 3, 2)],
              [fallback, {"type": "BPEDecoder", "suffix": "</w>"}], [fallback, byte_level()], [byte_level(), strip(" ", 1, 0)],
              [fuse, replace(" ", "_"), {"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": True}]]
    return settings + [sequence("decoders", *chain) for chain in chains]


def settings(all_models):
    base = {"model": "boundaries", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
            "decoder": None}
    size = lambda model: len(all_models[model]["vocab"])
    yield from ({**base, "model": model} for model in all_models)
    yield from ({**base, "model": model, "pre_tokenizer": pre} for model in ["words", "words-whole", "bytes-fallback"]
                for pre in [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always"}])
    yield {**base, "model": "byte-level", "pre_tokenizer": byte_level(), "decoder": byte_level()}
    yield {**base, "model": "byte-level", "pre_tokenizer": byte_level(True, False), "decoder": byte_level()}
    yield from ({**base, "normalizer": n} for n in normalizer_settings())
    yield from ({**base, "pre_tokenizer": p} for p in pre_tokenizer_settings())
    for tokens in added_token_settings(size("boundaries")):
        tokens = numbered(tokens, all_models["boundaries"]["vocab"])
        yield {**base, "added_tokens": tokens}
        yield {**base, "added_tokens": tokens, "normalizer": sequence("normalizers", {"type": "Lowercase"}, replace(" ", BLANK))}
        yield {**base, "added_tokens": tokens, "normalizer": {"type": "Strip", "strip_left": True, "strip_right": False},
               "pre_tokenizer": {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": True}}
    yield {**base, "added_tokens": [added(0, "<unk>", special=True), added(1, "\x00"), added(size("boundaries"), "<s>", special=True)]}
    yield from ({**base, "post_processor": p} for p in post_processor_settings())
    yield from ({**base, "model": "odd", "decoder": d, "added_tokens": [added(0, "<unk>", special=True)]} for d in decoder_settings())


def decodings(oracle, size, rng, count):
    """Some id lists with their texts. The oracle crashes on some tokens that are shorter than what is stripped."""
    out = []
    for _ in range(count):
        ids = [rng.randrange(min(size, rng.choice([25, size]))) for _ in range(rng.randint(0, 12))]
        try:
            out.append([ids, oracle.decode(ids, skip_special_tokens=False), oracle.decode(ids, skip_special_tokens=True)])
        except BaseException as crash:
            if type(crash).__name__ != "PanicException":
                raise
    return out


def main():
    rng = random.Random(5)
    all_models = models()
    cases, firsts = [], {}
    for setting in settings(all_models):
        document = {"version": "1.0", "truncation": None, "padding": None, **setting, "model": all_models[setting["model"]]}
        oracle = Tokenizer.from_str(json.dumps(document))
        size = max(oracle.get_vocab().values()) + 1
        encoded = [oracle.encode(text).ids for text in STRINGS]
        plain = [oracle.encode(text, add_special_tokens=False).ids for text in STRINGS]
        first = firsts.setdefault(setting["model"], encoded)
        differing = encoded if first is encoded else [ids if ids != other else None for ids, other in zip(encoded, first)]
        cases.append({**setting, "encoded": differing, "plain": None if plain == encoded else plain,
                      "decodings": decodings(oracle, size, rng, 40 if setting["model"] == "odd" else 4)})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write('{"strings":%s,\n"models":%s,\n"cases":[\n%s]}\n' % (
            json.dumps(STRINGS, separators=(",", ":")), json.dumps(all_models, separators=(",", ":")), lines))
    print(len(cases), "tokenizers,", len(STRINGS), "strings each")


if __name__ == "__main__":
    main()
