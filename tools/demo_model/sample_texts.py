#!/usr/bin/env python3
"""Texts drawn from the demo model itself, for calibration and for perplexity.

    sample_texts.py --model models/demo

Every window is bos and 255 tokens drawn at temperature 1 from the stored model. A token is
drawn again, without the one that was drawn, if it is special or if the text so far would be
tokenised differently; so the text of a window always gives its ids back. The windows of a file
are joined by the text of the bos token, and a line feed ends the file. Hence the usual protocol
(tokenise the whole text with bos in front, cut windows of 256 that do not overlap, drop the
incomplete last one) scores exactly the windows that were drawn.
"""
import argparse
import pathlib

import torch
import torch.nn.functional as F

from folder import open_folder

WINDOW = 256
LOOK_BACK = 12      # tokens; the whole window is checked at the end


def reproduces(tok, rows):
    """For each list of ids: does its text give the same ids?"""
    texts = tok.decode_batch(rows, skip_special_tokens=False)
    return [e.ids == r for e, r in zip(tok.encode_batch(texts, add_special_tokens=False), rows)]


@torch.no_grad()
def draw_windows(model, tok, specials, rows, generator):
    """-> [rows, WINDOW] ids, of which the first is bos, and the number of refused tokens."""
    ids = [[specials[0]] for _ in range(rows)]
    past, refused = [[] for _ in model.blocks], 0
    for _ in range(WINDOW - 1):
        p = model(torch.tensor([[r[-1]] for r in ids]), past)[:, -1].softmax(-1)
        open_rows = list(range(rows))
        while open_rows:
            drawn = torch.multinomial(p[open_rows], 1, generator=generator)[:, 0].tolist()
            good = reproduces(tok, [ids[r][1:][-LOOK_BACK:] + [t] for r, t in zip(open_rows, drawn)])
            left = []
            for r, t, ok in zip(open_rows, drawn, good):
                if ok and t not in specials:
                    ids[r].append(t)
                else:
                    p[r, t] = 0
                    left.append(r)
            refused += len(left)
            open_rows = left
    return ids, refused


@torch.no_grad()
def mean_nll(model, windows):
    total = 0.0
    for w in windows.split(8):
        logits = model(w[:, :-1]).flatten(0, 1)
        total += F.cross_entropy(logits, w[:, 1:].flatten(), reduction="none").double().sum().item()
    return total / (len(windows) * (WINDOW - 1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True)
    p.add_argument("--windows", type=int, default=256)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model, tok, bos, eos = open_folder(a.model)
    for name, seed in (("heldout", 101), ("calibration", 202)):
        generator = torch.Generator().manual_seed(seed)
        drawn, refused = draw_windows(model, tok, (bos, eos), a.windows, generator)
        good = reproduces(tok, [r[1:] for r in drawn])
        kept = [r for r, ok in zip(drawn, good) if ok]
        texts = [tok.decode(r[1:]) for r in kept]
        # The line feed at the end must not join white space of the last window.
        last = next(i for i in reversed(range(len(texts))) if not texts[i][-1].isspace())
        for x in (texts, kept):
            x.append(x.pop(last))
        whole = tok.id_to_token(bos).join(texts) + "\n"
        path = a.model / f"{name}.txt"
        path.write_bytes(whole.encode())
        again = tok.encode(path.read_bytes().decode()).ids
        flat = [i for r in kept for i in r]
        assert again[:len(flat)] == flat and len(again) < len(flat) + WINDOW
        print("%s: %d bytes, %d windows (%d more did not survive), %.3f %% of the tokens refused, mean NLL %.6f" % (
            path.name, len(whole.encode()), len(kept), len(drawn) - len(kept),
            100 * refused / (refused + a.windows * (WINDOW - 1)), mean_nll(model, torch.tensor(kept))), flush=True)


if __name__ == "__main__":
    main()
