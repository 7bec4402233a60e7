"""Runs the nibble program for the scripts beside this file: one call, one JSON object."""
import json
import pathlib
import subprocess
import sys


class Nibble:
    def __init__(self, program):
        self.program = str(program)
        if not pathlib.Path(self.program).is_file():
            sys.exit(f"{self.program} is not there: run `make build` first")

    def __call__(self, *arguments):
        """The JSON object that `nibble ARGUMENTS --json` prints; ends the script with the program's own error."""
        command = [self.program, *map(str, arguments), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\nfailed with exit code {done.returncode}\n{done.stderr}{done.stdout}")
        return json.loads(done.stdout)


def table(header, rows):
    """A Markdown table whose columns are padded, so that it reads well as plain text too; numbers to the right."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    def line(row):
        return "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |"
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
