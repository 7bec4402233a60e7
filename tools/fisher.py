#!/usr/bin/env python3
"""Writes how much a model's loss minds an error of each of its weights: the diagonal of the empirical Fisher matrix.

    pip install torch transformers safetensors
    fisher.py MODEL -o fisher.safetensors --text calibration.txt --samples 128 --length 512
    nibble quantize MODEL -o OUT --recipe squeezellm-fisher-3 --sensitivity fisher.safetensors

For every sample of LENGTH tokens the gradient of the mean cross-entropy is taken, squared, and added up, as SqueezeLLM does
(arXiv 2306.07629), though in float32. The file has one tensor for each linear of the blocks, under its name in the
checkpoint. Samples are slices of the text that start at random places. Memory: the model in float32, twice more for
gradients and sums.
"""
import argparse
import random

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def weights_of_blocks(model):
    """The matrices of the linears, without embeddings and the output matrix."""
    head = model.get_output_embeddings()
    return {f"{name}.weight": module.weight for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head}


def samples_of(tokenizer, files, count, length, seed):
    ids = tokenizer("".join(open(file, encoding="utf-8").read() for file in files))["input_ids"]
    if len(ids) < length:
        raise SystemExit(f"the text has {len(ids)} tokens; a sample needs {length}")
    draw = random.Random(seed)
    for _ in range(count):
        begin = draw.randrange(len(ids) - length + 1)
        yield torch.tensor([ids[begin:begin + length]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    weights = weights_of_blocks(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for ids in samples_of(tokenizer, options.text, options.samples, options.length, options.seed):
        model(input_ids=ids, labels=ids).loss.backward()
        for name, weight in weights.items():
            sums[name] += weight.grad ** 2
            weight.grad = None
    save_file(sums, options.output)


main()
