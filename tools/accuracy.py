#!/usr/bin/env python3
"""Prints what the shipped recipes do to small trained models, one page for each kind of number format.

accuracy.py SHARED > docs/accuracy.md
accuracy.py SHARED --page blocks > docs/accuracy-blocks.md
Those of docs/learned-levels.md:
accuracy.py SHARED --page budgets                    every method at the same stored bits
accuracy.py SHARED --page channels                   bits by channel
accuracy.py SHARED --page groups                     bits by group
accuracy.py SHARED --page levels [--fisher FOLDER]   levels by row; FOLDER: what tools/fisher.py wrote, MODEL.safetensors
SHARED holds models/ (checkpoints), models/eval/wikitext2_test_200k.txt and data/text/{c4,wikitext2-train-1MB}.txt.
The quantized models are kept in build/accuracy/ and made again on every run.
"""
import argparse
import copy
import json
import pathlib
import subprocess
import sys

from nibble_cli import Nibble, table

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "accuracy"
MODELS = ["tiny-llama", "tiny-llama-outlier", "tiny-opt", "tiny-opt-outlier", "tiny-falcon"]
BESIDE = ["tiny-llama", "tiny-opt-outlier", "tiny-falcon"]  # a family each, one with loud channels
ABLATED = ["tiny-llama-outlier", "tiny-opt-outlier"]
SAMPLES, LENGTH, WINDOW = 32, 256, 256


class Bench:
    def __init__(self, shared, nibble):
        self.shared, self.nibble = pathlib.Path(shared), nibble
        self.text = self.shared / "models/eval/wikitext2_test_200k.txt"
        OUT.mkdir(parents=True, exist_ok=True)

    def model(self, name):
        return self.shared / "models" / name

    def compare(self, name, models):
        """The scores of quantized models beside the one that they were made of, and its perplexity."""
        found = self.nibble("compare", self.model(name), *models, "--text", self.text, "--window", WINDOW)["candidates"]
        return found, found[0]["reference_perplexity"]

    def speed(self, model):
        """Tokens per second: a prompt of 256, and one sequence decoded."""
        found = self.nibble("bench", model, "--prefill", 256, "--context", 0, "--batch", 1, "--repetitions", 5)
        return found["prefill_tokens_per_second"], found["decode_tokens_per_second"]

    def quantize(self, name, recipe, *more):
        out = OUT / name / "-".join([pathlib.Path(str(recipe)).name.removesuffix(".json"), *(m for m in map(str, more) if "=" in m)])
        out.parent.mkdir(exist_ok=True)
        report = self.nibble("quantize", self.model(name), "-o", out, "--recipe", recipe, "--force",
                             "--calibration", self.shared / "data/text/c4.txt", "--samples", SAMPLES, "--length", LENGTH, *more)
        return out, report

    def rows(self, name, recipes, speed=False):
        """A row for each (label, recipe, options ...), and one for the model itself."""
        models = []
        for label, recipe, *more in recipes:
            print(f"{name}: {label}", file=sys.stderr, flush=True)
            models.append(self.quantize(name, recipe, *more)[0])
        scores, reference = self.compare(name, models)
        shape = self.nibble("inspect", self.model(name))
        rows = [["unquantized", "", f"{shape['bits_per_weight']:.2f}", f"{reference:.3f}", "", ""]]
        for (label, *_), model, score in zip(recipes, models, scores):
            shape = self.nibble("inspect", model)
            rows.append([label, f"{shape['quantized_bits_per_weight']:.2f}", f"{shape['bits_per_weight']:.2f}",
                         f"{score['candidate_perplexity']:.3f}", change(score["candidate_perplexity"], reference),
                         f"{score['mean_kl']:.4f}"])
        if speed:
            for row, model in zip(rows, [self.model(name), *models]):
                row += [f"{value:.0f}" for value in self.speed(model)]
        return rows


HEADER = ["recipe", "bits, linears", "bits, all", "perplexity", "change", "mean KL"]
SPEED = ["prefill", "decode"]


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


def all_recipes(bench, recipes, speed=False):
    for name in MODELS:
        rows = bench.rows(name, [(recipe, recipe) for recipe in recipes], speed)
        print(f"### {name}\n\n{table(HEADER + (SPEED if speed else []), rows)}\n", flush=True)


def ablations(bench):
    for name in ABLATED:
        edits = [("quik-4b", None, "quik-4b"), ("quik-4b-all4", None, "down projection in 4 bits too"),
                 ("quik-4b-w4a8-down", None, "down projection W4A8"),
                 ("quik-4b", without_clipping, "without clipping"), ("quik-4b", without_solver, "without GPTQ")]
        edits += [("quik-4b", keep(n), f"{n} columns kept") for n in (0, 1, 2, 4, 8, 16, 32, 64)]
        rows = bench.rows(name, [(label, variant(bench.nibble, recipe, edit) if edit else recipe)
                                 for recipe, edit, label in edits])
        print(f"### {name}\n\n{table(['quik-4b with'] + HEADER[1:], rows)}\n", flush=True)


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


# Learned levels by row: what weighting, weights apart and GPTQ are worth.
LEVELS_BYTES = 30000
LEVELS = [
    ("code3:row, unweighted", "squeezellm-3-dense", "--set", "levels.weighted_by=none"),
    ("squeezellm-3-dense", "squeezellm-3-dense"),
    ("squeezellm-3-dense+gptq", "squeezellm-3-dense+gptq"),
    ("gptqt-3", "gptqt-3"),
    ("squeezellm-3", "squeezellm-3"),
    ("squeezellm-fisher-3", "squeezellm-fisher-3"),
    ("squeezellm-3+gptq", "squeezellm-3+gptq"),
    ("squeezellm-4", "squeezellm-4"),
    ("squeezellm-4+gptq", "squeezellm-4+gptq"),
]


def bits_by_channel(bits, *more, label=None, recipe="cmpq"):
    sets = [f"widths.bits={bits}", *more]
    return (label or f"{recipe}, {bits} bits", recipe, *(word for s in sets for word in ("--set", s)))


# What the parts of the method are worth at equal stored bits, everything counted, and the published averages.
ALONE = ("apart.effect=1e-9", "apart.loss=0")
CHANNELS = [
    bits_by_channel(3.25),
    bits_by_channel(3.25, "widths.by=norm", label="by norm, the published rule"),
    bits_by_channel(3.25, "apart.effect=0.005", "apart.loss=0", label="apart by effect alone"),
    bits_by_channel(3.25, "apart.effect=0", "apart.loss=0.005", label="apart by loss alone"),
    bits_by_channel(3.25, *ALONE, label="nothing apart"),
    bits_by_channel(3.25, *ALONE, recipe="cmpq+gptq", label="nothing apart, with GPTQ"),
    bits_by_channel(3.25, *ALONE, recipe="cmpq-a8+gptq", label="the same, activations of 8 bits"),
    bits_by_channel(3.58, label="cmpq, 3.58 bits: a tenth more memory"),
    *((f"`{name}`", name) for name in ("cmpq-2.2", "cmpq-3", "cmpq-3.2", "cmpq-4")),
]


def with_sets(label, recipe, *sets):
    return (label, recipe, *(word for s in sets for word in ("--set", s)))


# At equal stored bits, in groups of 32 and of 128 columns: of the latter these models have 2 to 6. Then two magnitudes.
BY_SALIENCE = 'solve.clip={"steps": 11, "widen": 10, "norm": 2, "by": "salience"}'
GROUPS = [
    with_sets("int2:g32:asym, GPTQ", "gptq-w4a16-g128", "weights=int2:g32:asym"),
    with_sets("the same, scales by salience", "gptq-w4a16-g128", "weights=int2:g32:asym", BY_SALIENCE),
    with_sets("slim-llm-2, int:g32", "slim-llm-2", "weights=int:g32:asym"),
    with_sets("slim-llm, int:g32", "slim-llm", "weights=int:g32:asym", "widths.bits=2.75"),
    with_sets("int3:g128:asym, GPTQ", "gptq-w4a16-g128", "weights=int3:g128:asym"),
    with_sets("the same, scales by salience", "gptq-w4a16-g128", "weights=int3:g128:asym", BY_SALIENCE),
    with_sets("slim-llm-3", "slim-llm-3"),
    with_sets("slim-llm", "slim-llm", "widths.bits=3.19"),
    with_sets("slim-llm, int:g32", "slim-llm", "weights=int:g32:asym", "widths.bits=3.19"),
    with_sets("int3:g32:asym, GPTQ", "gptq-w4a16-g128", "weights=int3:g32:asym"),
    with_sets("slim-llm-3, int:g32", "slim-llm-3", "weights=int:g32:asym"),
    with_sets("gptqt-2", "gptqt-2"),
    with_sets("code2:g128 by k-means, GPTQ", "squeezellm-3-dense+gptq", "weights=code2:g128"),
    with_sets("billm", "billm"),
    with_sets("billm+gather", "billm+gather"),
]


# Every method at the same stored bits of linears. A group of integers has 24 bits beside its codes, a block 8.
BUDGETS = {2.5: ("int2:g48:asym", "bfp2:b16"), 3: ("int2:g24:asym", "bfp2:b8"), 3.25: ("int3:g96:asym", "bfp3:b32"),
           4: ("int3:g24:asym", "bfp3:b8")}


def methods(bits):
    integers, block = BUDGETS[bits]
    wide = bits > 3
    # Tables of 2 bits leave these models no room for weights apart.
    apart, bare = ((), "") if bits > 2.5 else (ALONE, ", nothing apart")
    return [
        with_sets(f"{integers}, nearest", "rtn-w4a16-g128", f"weights={integers}"),
        with_sets(f"{integers}, GPTQ", "gptq-w4a16-g128", f"weights={integers}"),
        with_sets(f"{block}, nearest", "rtn-w4a16-g128", f"weights={block}"),
        with_sets(f"{block}, GPTQ", "gptq-w4a16-g128", f"weights={block}"),
        with_sets("SliM-LLM", "slim-llm", f"weights=int:g{128 if wide else 64}:asym", f"widths.bits={bits}"),
        ("SqueezeLLM", "squeezellm-3", "--set", f"weights=code{3 if wide else 2}:row"),
        ("SqueezeLLM, GPTQ", "squeezellm-3+gptq", "--set", f"weights=code{3 if wide else 2}:row"),
        bits_by_channel(bits, "widths.by=norm", *apart, label=f"CMPQ, published rule{bare}"),
        bits_by_channel(bits, *apart, label=f"CMPQ, least cost{bare}"),
        bits_by_channel(bits, *ALONE, recipe="cmpq+gptq", label="CMPQ, nothing apart, GPTQ"),
    ]


def up_to(bench, name, bits, method):
    """SqueezeLLM takes the bits that its tables leave for weights apart: 32 for each, and 32 for a row."""
    label, recipe, *sets = method
    if not label.startswith("SqueezeLLM"):
        return method
    weights = next(word for word in sets if word.startswith("weights="))
    dense, _ = bench.quantize(name, "rtn-w4a16-g128", "--set", weights)
    shape = bench.nibble("inspect", dense)
    linears = [t["shape"] for t in shape["tensors"] if len(t["shape"]) == 2 and t["bits_per_weight"] < 16]
    rows = sum(n for n, _ in linears) / sum(n * k for n, k in linears)
    share = (bits - shape["quantized_bits_per_weight"]) / 32 - rows
    if share < 1e-4:
        return (f"{label}, nothing apart", recipe.replace("-3", "-3-dense"), *sets)
    return (label, recipe, *sets, "--set", f"apart.effect={share / 9:.6f}", "--set", f"apart.magnitude={share * 8 / 9:.6f}")


def beginning(bench):
    """Many models at a time: on the beginning of the text alone."""
    whole, bench.text = bench.text, OUT / "text.txt"
    bench.text.write_bytes(whole.read_bytes()[:LEVELS_BYTES])
    return bench


def side_by_side(bench, recipes_of, says_bits, models=MODELS):
    """Models side by side, their KL first, with the stored bits that recipes come to where `says_bits(label)`.
    recipes_of(name): (label, recipe, options ...) for a model, as many and in the same order for all."""
    rows = []
    for of_models in zip(*(bench.rows(name, recipes_of(name))[1:] for name in models)):
        label, bits = of_models[0][0], [row[1] for row in of_models]
        if says_bits(label):
            between = f"{min(bits)} to {max(bits)}" if min(bits) != max(bits) else bits[0]
            label = f"{label}: {between} bits"
        rows.append([label, *(f"{kl} ({changed})" for *_, changed, kl in of_models)])
    print(table(["mean KL (change of perplexity)", *models], rows), flush=True)


def budgets(bench):
    for bits in BUDGETS:
        print(f"### {bits} bits\n")
        side_by_side(bench, lambda name: [up_to(bench, name, bits, method) for method in methods(bits)], lambda label: True, BESIDE)
        print()


def levels(bench, fisher):
    recipes = [row for row in LEVELS if fisher or "fisher" not in row[1]]
    options = lambda name, recipe: ("--sensitivity", fisher / f"{name}.safetensors") if "fisher" in recipe else ()
    side_by_side(bench, lambda name: [(*row, *options(name, row[1])) for row in recipes], lambda label: True, BESIDE)


def page_of(nibble, recipe):
    weights = nibble("recipe", "show", recipe)["weights"]
    return "integers" if weights.startswith("int") else "levels" if weights.startswith("code") else "blocks"


def integers(bench, recipes, printed_by):
    print(f"""# Accuracy

{printed_by} Block formats: [accuracy-blocks.md](accuracy-blocks.md).

## Every recipe of integers
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


def blocks(bench, recipes, printed_by):
    print(f"""# Accuracy of block formats

{printed_by} What the formats are: [formats.md](formats.md); recipes of integers: [accuracy.md](accuracy.md).

Speeds are tokens per second of these small models on the two processors of [performance.md](performance.md), a prompt of 256 tokens and one
sequence decoded: they compare recipes of one table, hardly more.
""")
    all_recipes(bench, recipes, speed=True)


def main():
    pages = {"integers": integers, "blocks": blocks}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared")
    parser.add_argument("--page", choices=[*pages, "levels", "channels", "groups", "budgets"], default="integers")
    parser.add_argument("--fisher", type=pathlib.Path)
    parser.add_argument("--program", default=ROOT / "build" / "release" / "nibble")
    options = parser.parse_args()
    page, nibble = options.page, Nibble(options.program)
    if page == "levels":
        return levels(beginning(Bench(options.shared, nibble)), options.fisher)
    if page == "channels":
        return side_by_side(beginning(Bench(options.shared, nibble)), lambda name: CHANNELS, lambda label: label.startswith("`cmpq-"), BESIDE)
    if page == "groups":
        return side_by_side(beginning(Bench(options.shared, nibble)), lambda name: GROUPS, lambda label: True)
    if page == "budgets":
        return budgets(beginning(Bench(options.shared, nibble)))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    recipes = [r["name"] for r in nibble("recipe", "list")["recipes"]]
    pages[page](Bench(options.shared, nibble), [r for r in recipes if page_of(nibble, r) == page],
                f"""Everything below is printed by `tools/accuracy.py SHARED --page {page}` (commit {commit}). Perplexity and mean KL from the
unquantized model (nats): the first 200,000 bytes of the WikiText-2 test text, windows of {WINDOW} tokens. Calibration, where a recipe
asks for it: {SAMPLES} samples of {LENGTH} tokens of C4, seed 0. The models are small (4 to 7 million parameters) and really trained; the
`-outlier` copies compute the same function with the channel magnitudes of large models. "bits, linears" counts codes, scales,
kept columns and their indices of the quantized linears; "bits, all" every byte of the weight files over every parameter,
embeddings included.""")


if __name__ == "__main__":
    main()
