#!/usr/bin/env python3
"""Compares Nibble's tokenizer with Hugging Face tokenizers on random and real strings.

    compare.py --program tokenize_stream --text FILE_OR_FOLDER [--count N] [--seed S] FOLDER...

The reference library (`pip install tokenizers==0.22.1`; 0.23 does not skip special tokens that are looked for in
normalized text) reads FOLDER/tokenizer.json, or FOLDER/reference/tokenizer.json where the folder itself has another
form. Every string is encoded with and without
special tokens, and ids are decoded three ways: all tokens, special tokens skipped, and streamed. Prints one line per
folder and ends with 1 at the first difference.
"""
import argparse
import pathlib
import random
import struct
import subprocess
import sys
import threading

from tokenizers import Tokenizer

BATCH = 2000
RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0x00, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x52F),
          (0x590, 0x6FF), (0x900, 0xDFF), (0x1100, 0x11FF), (0x1E00, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF),
          (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFFFD), (0x10000, 0x1FFFF),
          (0x1F300, 0x1FAFF), (0x20000, 0x10FFFF)]
BLANKS = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"


def real_texts(paths):
    files = [f for p in paths for f in ([p] if p.is_file() else sorted(p.rglob("*.txt")))]
    return [f.read_bytes()[:2_000_000].decode("utf-8", "ignore") for f in files]


class Strings:
    """Strings of many kinds; `tokens` are vocabulary strings to be mixed in."""

    def __init__(self, seed, texts, tokens, specials):
        self.random, self.texts, self.tokens, self.specials = random.Random(seed), texts, tokens, specials
        self.kinds = [self.real, self.real, self.words, self.ascii, self.one_range, self.mixed, self.blanks,
                      self.repeated, self.with_specials, self.numbers, self.vocabulary]

    def make(self):
        return self.random.choice(self.kinds)()

    def length(self, most=60):
        return self.random.choice([self.random.randint(0, 8), self.random.randint(0, most)])

    def character(self):
        low, high = self.random.choice(RANGES)
        return chr(self.random.randint(low, high))

    def real(self):
        text = self.random.choice(self.texts)
        at = self.random.randrange(len(text))
        return text[at:at + self.random.choice([10, 40, 120, 300])]

    def words(self):
        return "".join(self.random.choice([self.real()[:12], self.blanks(), self.character(), "'s", "'LL", "'re"])
                       for _ in range(self.length(12)))

    def ascii(self):
        return "".join(chr(self.random.randint(0x20, 0x7E)) for _ in range(self.length()))

    def one_range(self):
        low, high = self.random.choice(RANGES)
        return "".join(chr(self.random.randint(low, high)) for _ in range(self.length(30)))

    def mixed(self):
        return "".join(self.character() for _ in range(self.length(30)))

    def blanks(self):
        return "".join(self.random.choice(BLANKS) * self.random.choice([1, 1, 2, 3, 30]) + self.random.choice(["", "a"])
                       for _ in range(self.length(6)))

    def repeated(self):
        return self.character() * self.random.choice([2, 7, 40, 200])

    def with_specials(self):
        return "".join(self.random.choice([self.random.choice(self.specials), self.real()[:9], self.blanks()])
                       for _ in range(self.length(8)))

    def numbers(self):
        return "".join(self.random.choice("0123456789.,- \u0663\u0967\u00bd\u2167") for _ in range(self.length(20)))

    def vocabulary(self):
        return "".join(self.random.choice(self.tokens) for _ in range(self.length(6)))


def ask(program, folder, request):
    """The answers of the C++ program to a list of (kind, bytes or list of ids)."""
    process = subprocess.Popen([program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    def feed():
        for kind, items in request:
            data = items if isinstance(items, bytes) else struct.pack("<%di" % len(items), *items)
            process.stdin.write(kind + struct.pack("<I", len(items)) + data)
        process.stdin.close()
    threading.Thread(target=feed, daemon=True).start()
    answers = []
    for kind, _ in request:
        head = process.stdout.read(4)
        if len(head) < 4:
            sys.exit("%s: the program stopped" % folder)
        (count,) = struct.unpack("<I", head)
        if kind in b"ep":
            answers.append(list(struct.unpack("<%di" % count, process.stdout.read(4 * count))))
        else:
            answers.append(process.stdout.read(count).decode("utf-8"))  # strict: only whole code points are text
    process.wait()
    return answers


def random_ids(rng, size):
    return [rng.randrange(size) if rng.random() < 0.99 else rng.choice([-1, size, size + 5, 1 << 30])
            for _ in range(rng.randint(0, 40))]


def kept(ids, size):
    return [i for i in ids if 0 <= i < size]


def check(folder, what, given, mine, theirs):
    if mine != theirs:
        sys.exit("%s: %s differs\n given  %r\n nibble %r\n oracle %r" % (folder, what, given, mine, theirs))


def compare(folder, options, texts):
    reference = folder / "reference"
    oracle = Tokenizer.from_file(str((reference if reference.exists() else folder) / "tokenizer.json"))
    oracle.no_padding()
    oracle.no_truncation()
    vocab = oracle.get_vocab()
    size = max(vocab.values()) + 1
    specials = [t.content for t in oracle.get_added_tokens_decoder().values()] or [" "]
    plain = [t for t in sorted(vocab) if t not in specials]
    strings = Strings(options.seed, texts, plain, specials)
    rng = random.Random(options.seed + 1)
    tokens = 0
    for start in range(0, options.count, BATCH):
        batch = [strings.make() for _ in range(min(BATCH, options.count - start))]
        if start == 0:
            batch += [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x3000 or c % 16 == 0)]
        with_specials = [e.ids for e in oracle.encode_batch(batch)]
        without = [e.ids for e in oracle.encode_batch(batch, add_special_tokens=False)]
        sequences = without + [random_ids(rng, size) for _ in batch]
        clean = [kept(ids, size) for ids in sequences]
        answers = ask(options.program, folder,
                      [(b"e", t.encode()) for t in batch] + [(b"p", t.encode()) for t in batch] +
                      [(b"d", ids) for ids in sequences] + [(b"s", ids) for ids in sequences])
        n = len(batch)
        for i, text in enumerate(batch):
            check(folder, "encoding", text, answers[i], with_specials[i])
            check(folder, "encoding without special tokens", text, answers[n + i], without[i])
        decoded = oracle.decode_batch(clean, skip_special_tokens=False)
        skipped = oracle.decode_batch(clean, skip_special_tokens=True)
        for i, ids in enumerate(sequences):
            check(folder, "decoding", ids, answers[2 * n + i], decoded[i])
            check(folder, "streamed decoding", ids, answers[4 * n + i], skipped[i])
        tokens += sum(map(len, without))
    print("%s: %d strings (%d tokens) encoded twice, %d id sequences decoded twice, no difference"
          % (folder.name, options.count, tokens, 2 * options.count), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--text", type=pathlib.Path, action="append", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("folders", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    texts = real_texts(options.text)
    for folder in options.folders:
        compare(folder, options, texts)


if __name__ == "__main__":
    main()
