#!/usr/bin/env python3
"""The main job on the embedded model: quantize it three ways, compare, and generate a paragraph.

Usage: demo.py [PROGRAM]     (build/release/nibble)
"""
import pathlib
import sys
import time

from nibble_cli import Nibble, table

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "demo"
OUT = ROOT / "build" / "demo"
RECIPES = ["rtn-w4a4", "quik-8b", "quik-4b"]
PROMPT = "The old man looked at the door"


def measure(nibble, model, name, reference=None):
    """One row of the table, and the perplexity for the rows after it."""
    shape = nibble("inspect", model)
    text = nibble("perplexity", model, "--text", MODEL / "heldout.txt", "--window", 256)
    speed = nibble("bench", model, "--prefill", 256, "--decode", 64, "--repetitions", 3)
    perplexity = text["perplexity"]
    change = "" if reference is None else f"{100 * (perplexity / reference - 1):+.2f} %"
    bits = shape["quantized_bits_per_weight"]
    row = [name, f"{bits:.2f}", f"{shape['file_bytes'] / 1e6:.2f}", f"{perplexity:.3f} ± {perplexity * text['standard_error']:.3f}",
           change, f"{speed['prefill_tokens_per_second']:.0f}", f"{speed['decode_tokens_per_second']:.0f}"]
    return row, perplexity


def main():
    nibble = Nibble(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "release" / "nibble")
    start = time.time()
    OUT.mkdir(parents=True, exist_ok=True)
    row, reference = measure(nibble, MODEL, "unquantized (f16)")
    rows = [row]
    for recipe in RECIPES:
        print(f"quantizing with {recipe} ...", file=sys.stderr, flush=True)
        nibble("quantize", MODEL, "-o", OUT / recipe, "--recipe", recipe, "--force",
               "--calibration", MODEL / "calibration.txt", "--samples", 64, "--length", 256)
        rows.append(measure(nibble, OUT / recipe, recipe, reference)[0])
    print()
    print(table(["model", "bits/weight", "MB", "perplexity", "change", "prefill tok/s", "decode tok/s"], rows))
    print("\nbits/weight: of the quantized linears, scales and kept columns counted. Perplexity: models/demo/heldout.txt, which the"
          "\nunquantized model wrote itself, so the change estimates how far each model has moved from it.\n")
    text = nibble("generate", OUT / "quik-4b", "--prompt", PROMPT, "--max-tokens", 120, "--temperature", 0.7, "--seed", 7)
    print(f"quik-4b continues:\n  {PROMPT}{text['text']}\n")
    print(f"{time.time() - start:.0f} seconds. The quantized models are in {OUT.relative_to(ROOT)}/; try\n"
          f"  build/release/nibble generate {(OUT / 'quik-4b').relative_to(ROOT)} --prompt 'Once'")


main()
