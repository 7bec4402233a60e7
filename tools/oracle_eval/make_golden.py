#!/usr/bin/env python3
"""Runs lm-evaluation-harness itself over local task files and writes what it asked and what came out.

    pip install lm-eval accelerate torch transformers
    make_golden.py --model models/demo --data tests/golden/eval --out tests/golden/eval/demo.json --shots 0 2

The harness's own task definitions, prompts, tokenisation, model class and metrics are used; only the loading of data
sets is replaced, by documents in the data sets' own form that are built from the local files. The same documents serve
as every split. --limit and --tasks shorten the run; --compare FILE checks a file that `nibble eval --samples-out` wrote
(with the same options; for few shots also --fewshot-data with the data folder itself) instead of writing one.
"""
import argparse
import json
import os
import re
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TASKS = "hellaswag piqa arc_easy arc_challenge winogrande boolq openbookqa lambada".split()
HARNESS_NAME = {"lambada": "lambada_openai"}


def lines_of(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def lettered(row, question):
    labels = "ABCDEFGH"[: len(row["choices"])]
    choices = {"text": row["choices"], "label": list(labels)}
    return {"question": question, "question_stem": question, "choices": choices, "answerKey": labels[row["gold"]]}


def hellaswag(folder):
    with open(os.path.join(folder, "hellaswag_val.txt"), encoding="utf-8") as file:
        lines = file.read().split("\n")
    documents = []
    for at in range(0, len(lines) - 1, 6):
        label, rest = lines[at].split(": ", 1)
        first, second = rest, ""
        ends = list(re.finditer(r"[.!?][\"')]?\s", rest))
        if not rest.endswith((".", "!", "?")) and ends:
            first, second = rest[: ends[-1].end() - 1], rest[ends[-1].end() :]
        documents.append({"activity_label": label, "ctx_a": first, "ctx_b": second, "label": lines[at + 1],
                          "endings": lines[at + 2 : at + 6]})
    return documents


def winogrande(folder):
    documents = []
    for row in lines_of(folder, "winogrande.jsonl"):
        start = os.path.commonprefix(row["context_options"])
        start = start[: start.rfind(" ") + 1]
        fillers = [option[len(start) :] for option in row["context_options"]]
        documents.append({"sentence": start + "_ " + row["continuation"], "option1": fillers[0], "option2": fillers[1],
                          "answer": str(row["gold"] + 1)})
    return documents


def boolq(folder):
    documents = []
    for row in lines_of(folder, "boolq.jsonl"):
        passage, question = row["query"][len("Passage: ") :].rsplit("\nQuestion: ", 1)
        documents.append({"passage": passage, "question": question[:-1], "label": row["gold"]})
    return documents


def piqa(folder):
    return [{"goal": row["query"][len("Question: ") : -1], "sol1": row["choices"][0], "sol2": row["choices"][1],
             "label": row["gold"]} for row in lines_of(folder, "piqa.jsonl")]


def arc(folder, name):
    return [lettered(row, row["query"][len("Question: ") :]) for row in lines_of(folder, name)]


SOURCES = {
    ("Rowan/hellaswag", None): hellaswag,
    ("baber/piqa", None): piqa,
    ("allenai/ai2_arc", "ARC-Easy"): lambda folder: arc(folder, "arc_easy.jsonl"),
    ("allenai/ai2_arc", "ARC-Challenge"): lambda folder: arc(folder, "arc_challenge.jsonl"),
    ("allenai/winogrande", "winogrande_xl"): winogrande,
    ("aps/super_glue", "boolq"): boolq,
    ("allenai/openbookqa", "main"): lambda folder: [lettered(row, row["query"])
                                                    for row in lines_of(folder, "openbook_qa.jsonl")],
    ("EleutherAI/lambada_openai", "default"): lambda folder: [
        {"text": row["context"] + " " + row["continuation"]} for row in lines_of(folder, "lambada_openai.jsonl")],
}


def harness(arguments, shots):
    """By task: the metrics, and per item the (context, continuation) pairs with their answers."""
    import datasets
    import lm_eval
    import lm_eval.api.task as task_module
    import torch
    from lm_eval.models.huggingface import HFLM

    def load(path=None, name=None, **_):
        documents = datasets.Dataset.from_list(SOURCES[(path, name)](arguments.data))
        return datasets.DatasetDict({split: documents for split in ("train", "validation", "test")})

    torch.set_num_threads(arguments.threads)
    task_module.datasets.load_dataset = load
    options = {"add_bos_token": False} if arguments.no_special_tokens else {}
    model = HFLM(pretrained=arguments.model, dtype="float32", batch_size=8, device="cpu", **options)
    names = [HARNESS_NAME.get(task, task) for task in arguments.tasks]
    found = lm_eval.simple_evaluate(model=model, tasks=names, num_fewshot=shots, limit=arguments.limit or None,
                                    log_samples=True, bootstrap_iters=100000)
    out = {}
    for task, name in zip(arguments.tasks, names):
        metrics = {key.split(",")[0]: value for key, value in found["results"][name].items() if "," in key}
        items = []
        for sample in sorted(found["samples"][name], key=lambda sample: sample["doc_id"]):
            answers = sample["filtered_resps"]
            item = {"pairs": [list(pair)[:2] for pair in sample["arguments"]],
                    "log_likelihoods": [float(answer[0]) for answer in answers],
                    "greedy": [bool(answer[1]) for answer in answers]}
            item.update({key: sample[key] for key in ("acc", "acc_norm") if key in sample})
            items.append(item)
        out[task] = {"metrics": metrics, "items": items}
    return out


def shorten(pairs):
    """A context that stands before the answer above, too, becomes null."""
    contexts = [pair[0] for pair in pairs]
    for at in range(1, len(pairs)):
        if contexts[at] == contexts[at - 1]:
            pairs[at][0] = None


def compare(found, path):
    """What differs from a file of `nibble eval --samples-out`: one line per task; true when nothing does."""
    ours = {}
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        ours.setdefault(row["task"], []).append(row)
    good = True
    for task, theirs in found.items():
        rows = ours.get(task, [])
        prompts = greedy = judged = 0
        worst = 0.0
        for row, item in zip(rows, theirs["items"]):
            count = max(len(row["contexts"]), len(row["choices"]))
            for j in range(count):
                pair = [row["contexts"][j % len(row["contexts"])], " " + row["choices"][j % len(row["choices"])]]
                prompts += pair != item["pairs"][j]
                greedy += row["greedy"][j] != item["greedy"][j]
                worst = max(worst, abs(row["log_likelihoods"][j] - item["log_likelihoods"][j]))
            judged += any(row[key] != item[key] for key in ("acc", "acc_norm") if key in item)
        same = len(rows) == len(theirs["items"]) and prompts == greedy == judged == 0 and worst < 2e-4
        good = good and same
        print(f"{task:14s} {len(rows)} of {len(theirs['items'])} items; other prompts {prompts}, log-likelihoods off by "
              f"at most {worst:.1e}, other greedy {greedy}, other verdicts {judged}", theirs["metrics"])
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out")
    parser.add_argument("--compare")
    parser.add_argument("--shots", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=TASKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-special-tokens", action="store_true")
    arguments = parser.parse_args()
    found = {str(shots): harness(arguments, shots) for shots in arguments.shots}
    if arguments.compare:
        sys.exit(0 if compare(found[str(arguments.shots[0])], arguments.compare) else 1)
    import lm_eval
    for tasks in found.values():
        for task in tasks.values():
            for item in task["items"]:
                shorten(item["pairs"])
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump({"harness": "lm-eval " + lm_eval.__version__, "shots": found}, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
