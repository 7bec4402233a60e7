#!/usr/bin/env python3
"""Refuses an include that points upward in the picture of the house.

The picture is src/CMakeLists.txt: one line `layer(folder  folders it may include ...)` per folder, lowest first. A line
may name only folders above it, so the picture cannot hold a cycle. Includes of project files are written from src/
("core/result.h"). Besides:
  - files under apps/ and examples/ may include the public headers (<nibble/...>) and files of their own folder only;
  - inside src/, the public headers belong to the top floor, src/api, except the vocabulary that lies below all floors;
  - the folders of an instruction set (kernels/avx2 ...) include the abi and intrinsics only.
Usage: check_layers.py [ROOT]
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
source = root / "src"
problems = []
checked = 0
VOCABULARY = {"nibble/result.h", "nibble/progress.h", "nibble/units.h"}


def read_picture():
    """{folder: folders it may include, itself among them}"""
    picture = {}
    path = source / "CMakeLists.txt"
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r"layer\(([^)]*)\)", line)
        if not match:
            continue
        folder, *below = re.split(r"\s(?:FLAGS|LINK)\b", match.group(1))[0].split()
        problems.extend(f"src/CMakeLists.txt:{number}: {folder} names {name}, which is not above it"
                        for name in below if name not in picture)
        picture[folder] = {folder, *below}
    return picture


def floor_of(path, picture):
    """The deepest declared folder that contains the path."""
    parts = path.split("/")[:-1]
    for depth in range(len(parts), 0, -1):
        if "/".join(parts[:depth]) in picture:
            return "/".join(parts[:depth])
    return None


def includes(path):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if match:
            yield number, match.group(1) == '"', match.group(2)


def check_source(picture):
    global checked
    for path in sorted(source.rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu"}:
            continue
        name = path.relative_to(source).as_posix()
        floor = floor_of(name, picture)
        if floor is None:
            problems.append(f"src/{name}: lies in no declared layer")
            continue
        leaf = re.match(r"kernels/(avx|cuda)", floor)
        for number, quoted, target in includes(path):
            checked += 1
            other = floor_of(target, picture) if quoted else None
            if quoted and other not in picture.get(floor, ()):
                problems.append(f"src/{name}:{number}: {floor} may not include {target}")
            if target.startswith("nibble/") and target not in VOCABULARY and floor != "api":
                problems.append(f"src/{name}:{number}: public header {target} below src/api")
            if leaf and not quoted and not name.endswith("_test.cpp") and target not in {"immintrin.h", "cstdint", "cstddef"}:
                problems.append(f"src/{name}:{number}: {floor} is a leaf: abi and intrinsics only, not <{target}>")


def check_apps():
    global checked
    for folder in ("apps", "examples"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".h", ".cpp", ".c"}:
                continue
            for number, quoted, target in includes(path):
                checked += 1
                if quoted and not (path.parent / target).is_file():
                    problems.append(f"{path.relative_to(root)}:{number}: {folder}/ sees only <nibble/...>, not {target}")


check_source(read_picture())
check_apps()
print("\n".join(problems + [f"{len(problems)} upward includes, {checked} includes checked"]))
sys.exit(bool(problems))
