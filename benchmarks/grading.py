"""A class made from solutions, stubs and mistakes, graded by `akt-lab grade`: minutes, wrong marks.

    python benchmarks/grading.py --students 30 --jobs 2

Every student mixes what the course's authors wrote with what students may do: an answer, the line
that raises left in, a mistake, and a ✓ pasted below either. What must come of each is known.
"""

import argparse
import copy
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MISTAKES = {  # what to replace in the solution's cell
    "affine_quantize": ("2**bits - 1", "2 ^ bits - 1"),
    "best_clip": ("argmin()", "argmax()"),
    "gradient_norms": ("g.norm()", "g.square().sum()"),
    "explosion_ratio": ("statistics.median", "statistics.mean"),
    "bns_loss": ("correction=0", "correction=1"),
    "capture_inputs": ("handle.remove()", "pass"),
    "attention_maps": (".softmax(dim=1)", ".softmax(dim=0)"),
    "divergence": ("(p * ((p", "(q * ((p"),
    "akt_loss": ("b = b.detach()", "pass"),
    "dead_terms": ("g.abs().max() > 0", "g.max() > 0"),
    "bootstrap_difference": ("[2.5, 97.5]", "[5, 95]"),
    "seeds_needed": ("n - 1)", "n)"),
    "hutchinson_trace": ("probes**0.5", "(probes - 1) ** 0.5"),
    "top_eigenvalue": ("return v @ product(v)", "return product(v).norm()"),
    "fold_batch_norm": ("norm.eps", "1e-5"),
    "pack": (".to(torch.uint8)", ""),
}
ENDLESS = "seeds_needed", "n += 1"
KINDS = {  # what was done, and the mark for it
    "solution": "right",
    "mistake": "wrong",
    "stub": "not done",
    "tick below a stub": "cheated",
    "solution with a tick": "right",
    "tick below a mistake": "cheated",
}


def exercise_of(cell: dict[str, Any]) -> str | None:
    """The exercise that a cell of the course's is for."""
    if "exercise" in cell["metadata"].get("tags", ()):
        return "".join(cell["source"]).partition("def ")[2].partition("(")[0]
    return None


def hand_in(folder: Path, student: int, numbers: str = "12345678") -> dict[str, str]:
    """Write a student's notebooks.

    Returns:
        The mark that each exercise must get.
    """
    marks, folder = {}, folder / f"student-{student:02d}"
    folder.mkdir(parents=True)
    for place in sorted(NOTEBOOKS.glob(f"[{numbers}]-*.ipynb")):
        stub = json.loads(place.read_text(encoding="utf-8"))
        solution = json.loads((NOTEBOOKS / "solutions" / place.name).read_text(encoding="utf-8"))
        book = copy.deepcopy(solution)
        kind = name = ""
        for cell, left in zip(book["cells"], stub["cells"], strict=True):
            if asked := exercise_of(cell):
                name = asked
                kind = list(KINDS)[(student + list(MISTAKES).index(name)) % len(KINDS)]
                marks[name] = KINDS[kind]
                _do(kind, name, cell, left, endless=student % 10 == 0)
            elif "check" in cell["metadata"].get("tags", ()) and "tick" in kind:
                text = f"✓ {name}: all is well"
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [text]}]
        (folder / place.name).write_text(json.dumps(book), encoding="utf-8")
    return marks


def _do(kind: str, name: str, cell: dict, left: dict, endless: bool) -> None:
    """Make of the solution's cell what this student wrote; `left` is the stub's."""
    if "stub" in kind:
        cell["source"] = left["source"]
    if "mistake" in kind:
        right, wrong = MISTAKES[name]
        if endless and name == ENDLESS[0]:
            right, wrong = ENDLESS[1], "pass"
        text = "".join(cell["source"])
        assert right in text, (name, right)
        cell["source"] = text.replace(right, wrong)


def main() -> int:
    """Make the class, grade it, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "class", Path(scratch) / "grades.csv"
        wanted = {
            (f"student-{s:02d}", name): mark
            for s in range(asked.students)
            for name, mark in hand_in(folder, s).items()
        }
        command = [sys.executable, "-m", "akt_lab.commands", "grade", str(folder)]
        start = time.monotonic()
        subprocess.run([*command, "--out", str(out), "--jobs", str(asked.jobs)], check=True)
        minutes = (time.monotonic() - start) / 60
        with out.open(encoding="utf-8-sig", newline="") as file:
            found = list(csv.DictReader(file))
    wrong = [row for row in found if row["mark"] != wanted[row["student"], row["exercise"]]]
    for row in wrong:
        print("WRONG MARK", wanted[row["student"], row["exercise"]], row)
    print(f"{asked.students} students, {len(found)} answers: {minutes:.1f} minutes, "
          f"{len(wrong)} wrong marks")  # fmt: skip
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
