"""Plain-text novels -> paragraphs, one per line."""
import pathlib
import re

ENDS = re.compile(r"[.!?:;\"'”’)\-—]$")
SPACES = re.compile(r"[ \t\u00a0]+")
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-"})
HELD_OUT = 0.01     # the last part of every novel


def join(lines):
    """Wrapped lines to one; a hyphen at the end of a line keeps its word together."""
    text = ""
    for line in lines:
        text += line if not text or re.search(r"\w-$", text) else " " + line
    return text


def unwrap(raw):
    """The paragraphs of a text that is wrapped in one of three ways: paragraphs between
    empty lines; no empty lines, so that a paragraph ends where the next word would still
    have fitted on the line; or one paragraph per line."""
    lines = [SPACES.sub(" ", l).strip() for l in raw.replace("\ufeff", "").translate(PLAIN).splitlines()]
    full = sorted(len(l) for l in lines if l)
    width = full[int(0.95 * len(full))]
    if width > 130:                                         # one paragraph per line
        return [l for l in lines if l]
    blocks, block = [], []
    for line in lines + [""]:
        if line:
            block.append(line)
        elif block:
            blocks.append(block)
            block = []
    if len(blocks) > len(full) / 30:                        # empty lines between paragraphs
        return [join(b) for b in blocks]
    paragraphs = []
    for block in blocks:
        start = 0
        for i, line in enumerate(block):
            last = i + 1 == len(block)
            fits = last or len(line) + 1 + len(block[i + 1].split(" ")[0]) < width - 4
            if last or fits and (ENDS.search(line) or len(line) < 0.6 * width):
                paragraphs.append(join(block[start:i + 1]))
                start = i + 1
    return paragraphs


def novels(folder):
    """-> [(name, training text, held-out text)], in the order of the names."""
    out = []
    for path in sorted(pathlib.Path(folder).glob("*.txt")):
        p = unwrap(path.read_text(encoding="utf-8-sig"))
        cut = len(p) - max(1, round(HELD_OUT * len(p)))
        out.append((path.stem, "\n".join(p[:cut]) + "\n", "\n".join(p[cut:]) + "\n"))
    if not out:
        raise SystemExit(f"no .txt files in {folder}")
    return out
