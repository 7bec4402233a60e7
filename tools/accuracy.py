#!/usr/bin/env python3
"""Prints docs/accuracy.md: every shipped recipe and the paper's ablations on small trained models.

Usage: accuracy.py SHARED [PROGRAM] > docs/accuracy.md
SHARED holds models/ (checkpoints), models/eval/wikitext2_test_200k.txt and data/text/{c4,wikitext2-train-1MB}.txt.
The quantized models are kept in build/accuracy/ and made again on every run.
"""
import copy
import json
import pathlib
import subprocess
import sys

from nibble_cli import Nibble, table

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "accuracy"
MODELS = ["tiny-llama", "tiny-llama-outlier", "tiny-opt", "tiny-opt-outlier", "tiny-falcon"]
ABLATED = ["tiny-llama-outlier", "tiny-opt-outlier"]
SAMPLES, LENGTH, WINDOW = 32, 256, 256


class Bench:
    def __init__(self, shared, nibble):
        self.shared, self.nibble = pathlib.Path(shared), nibble
        self.text = self.shared / "models/eval/wikitext2_test_200k.txt"
        OUT.mkdir(parents=True, exist_ok=True)

    def model(self, name):
        return self.shared / "models" / name

    def perplexity(self, model, *more):
        return self.nibble("perplexity", model, "--text", self.text, "--window", WINDOW, *more)

    def quantize(self, name, recipe, *more):
        out = OUT / name / pathlib.Path(str(recipe)).stem
        out.parent.mkdir(exist_ok=True)
        report = self.nibble("quantize", self.model(name), "-o", out, "--recipe", recipe, "--force",
                             "--calibration", self.shared / "data/text/c4.txt", "--samples", SAMPLES, "--length", LENGTH, *more)
        return out, report

    def row(self, name, recipe, reference, label=None, more=()):
        print(f"{name}: {label or recipe}", file=sys.stderr, flush=True)
        out, _ = self.quantize(name, recipe, *more)
        shape, score = self.nibble("inspect", out), self.perplexity(out)
        return [label or recipe, f"{shape['quantized_bits_per_weight']:.2f}", f"{shape['bits_per_weight']:.2f}",
                f"{score['perplexity']:.3f}", change(score["perplexity"], reference)]


def change(value, reference):
    ratio = value / reference
    return f"{ratio:.1f}x" if ratio > 2 else f"{100 * (ratio - 1):+.2f} %"


def variant(nibble, recipe, edit):
    """A shipped recipe with one thing changed, as a file."""
    source = copy.deepcopy(nibble("recipe", "show", recipe))
    edit(source)
    path = OUT / f"{source['name']}.json"
    path.write_text(json.dumps(source))
    return path


def without_solver(source):
    """The same grid and the same clipping, but rounding to nearest instead of GPTQ."""
    source["name"] += "-no-gptq"
    for step in source["steps"]:
        if "gptq" in step:
            solver = step.pop("gptq")
            step["round"] = {"clip": solver["clip"]} if "clip" in solver else {}
    for exception in source.get("except", []):
        for values in exception.get("set", {}).values():
            for parameter in ("damp", "block", "order"):
                values.pop(parameter, None)


def without_clipping(source):
    source["name"] += "-no-clip"
    for step in source["steps"]:
        step.get("gptq", {}).pop("clip", None)


def keep(count):
    def edit(source):
        source["name"] += f"-keep-{count}"
        for step in source["steps"]:
            if "split" in step:
                step["split"]["columns"] = count
    return edit


def all_recipes(bench, recipes):
    for name in MODELS:
        base = bench.perplexity(bench.model(name))
        shape = bench.nibble("inspect", bench.model(name))
        rows = [["unquantized", "", f"{shape['bits_per_weight']:.2f}", f"{base['perplexity']:.3f}", ""]]
        rows += [bench.row(name, recipe, base["perplexity"]) for recipe in recipes]
        print(f"### {name}\n\n{table(['recipe', 'bits, linears', 'bits, all', 'perplexity', 'change'], rows)}\n")


def ablations(bench):
    for name in ABLATED:
        base = bench.perplexity(bench.model(name))["perplexity"]
        edits = [("quik-4b", None, "quik-4b"), ("quik-4b-all4", None, "down projection in 4 bits too"),
                 ("quik-4b-w4a8-down", None, "down projection W4A8"),
                 ("quik-4b", without_clipping, "without clipping"), ("quik-4b", without_solver, "without GPTQ")]
        edits += [("quik-4b", keep(n), f"{n} columns kept") for n in (0, 1, 2, 4, 8, 16, 32, 64)]
        rows = []
        for recipe, edit, label in edits:
            rows.append(bench.row(name, variant(bench.nibble, recipe, edit) if edit else recipe, base, label))
        print(f"### {name}\n\n{table(['quik-4b with', 'bits, linears', 'bits, all', 'perplexity', 'change'], rows)}\n")


def solver_worth(bench):
    """The ratio of output errors, GPTQ over rounding on the same grid, per role on text that was not calibrated on."""
    rows = []
    for name in MODELS:
        print(f"{name}: validation errors", file=sys.stderr, flush=True)
        _, report = bench.quantize(name, "quik-4b", "--validation", bench.shared / "data/text/wikitext2-train-1MB.txt")
        ratios = {}
        for linear in report["linears"]:
            ratio = linear["validation_error"] / linear["rounding_validation_error"]
            ratios.setdefault(linear["name"].split(".")[-1], []).append(ratio)
        everything = [r for values in ratios.values() for r in values]
        mean = lambda values: f"{sum(values) / len(values):.2f}"
        cells = [mean(ratios[r]) if r in ratios else "" for r in ("q", "k", "v", "o", "gate", "up", "down")]
        rows.append([name, *cells, f"{max(everything):.2f}", f"{sum(r < 1 for r in everything)} of {len(everything)}"])
    print(table(["model", "q", "k", "v", "o", "gate", "up", "down", "largest", "below 1"], rows))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    nibble = Nibble(sys.argv[2] if len(sys.argv) > 2 else ROOT / "build" / "release" / "nibble")
    bench = Bench(sys.argv[1], nibble)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    recipes = [r["name"] for r in nibble("recipe", "list")["recipes"]]
    print(f"""# Accuracy

Everything below is printed by `tools/accuracy.py SHARED > docs/accuracy.md` (commit {commit}). Perplexity: the first 200,000 bytes of
the WikiText-2 test text, windows of {WINDOW} tokens. Calibration: {SAMPLES} samples of {LENGTH} tokens of C4, seed 0. The models are small
(4 to 7 million parameters) and really trained; the `-outlier` copies compute the same function with the channel
magnitudes of large models. "bits, linears" counts codes, scales, kept columns and their indices of the quantized
linears; "bits, all" every byte of the weight files over every parameter, embeddings included.

## Every recipe
""")
    all_recipes(bench, recipes)
    print("## What each part of QUIK is worth\n")
    ablations(bench)
    print("""## What GPTQ is worth

Perplexity on models this small hardly sees it, so here is where it must be seen: the relative squared error of each
linear's output on text it was *not* calibrated on (WikiText-2 train), GPTQ divided by rounding to nearest on the same
grid. Means over the layers; below 1, GPTQ is better.
""")
    solver_worth(bench)


main()
