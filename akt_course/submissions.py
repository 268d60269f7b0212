"""What students handed in: whose notebook it is, what answers an exercise, and what it claims.

An answer is run again without the rest of its notebook, which trains networks for minutes. So it is
taken together with what it needs, and that with what it needs in turn: imports, other functions,
values. All else stays out.
"""

import ast
import builtins
import html
import json
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akt_course.show import UNWRITTEN
from akt_lab.errors import AktError

OF_THE_COURSE = re.compile(r"[ _-]*[1-8]-[a-z][a-z-]*[a-z]( ?\(\d+\)|-\d+)?$")  # downloaded twice


@dataclass(frozen=True)
class Notebook:
    """A notebook that was handed in.

    Attributes:
        student: the folder that it lies in, or its own name, less that of the course's notebook.
        path: the file.
        code: its code cells.
        shown: all else that can be read in it, outputs included.
        predictions: what was written into the cells that ask for it.
    """

    student: str
    path: Path
    code: list[str]
    shown: str
    predictions: list[str]

    def claims(self, exercise: str) -> bool:
        """Whether it shows a ✓ of the exercise."""
        return f"✓ {exercise}:" in self.shown

    def answers(self, exercise: str) -> bool:
        """Whether a cell defines the exercise's function."""
        return any(re.search(rf"^def {exercise}\b", cell, re.MULTILINE) for cell in self.code)


def find(folder: Path) -> list[Path]:
    """The notebooks in a folder, in folders within it too.

    Raises:
        AktError: if there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise AktError(f"{folder}: no such folder; name the one that holds the students' notebooks")
    found = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not found:
        raise AktError(f"{folder}: no .ipynb in it; unpack what was handed in first")
    return found


def student_of(path: Path, folder: Path) -> str:
    """Whose notebook it is.

    >>> student_of(Path("class/ada/1-quantization-from-scratch.ipynb"), Path("class"))
    'ada'
    >>> student_of(Path("class/ada_1-quantization-from-scratch.ipynb"), Path("class"))
    'ada'
    """
    inside = path.relative_to(folder)
    if len(inside.parts) > 1:
        return inside.parts[0]
    return OF_THE_COURSE.sub("", path.stem) or folder.resolve().name


def read(path: Path, folder: Path) -> Notebook:
    """One notebook.

    Raises:
        AktError: if the file is no notebook.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [_text(c["source"]) for c in cells if c["cell_type"] == "code"]
        shown = [_text(c["source"]) for c in cells if c["cell_type"] != "code"]
        for cell in cells:
            shown += list(_printed(cell.get("outputs", ())))
        asked = [c for c in cells if "prediction" in c.get("metadata", {}).get("tags", ())]
        predictions = [words for c in asked if (words := _predicted(_text(c["source"])))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AktError(f"{path}: is no notebook that can be read ({error})") from error
    return Notebook(student_of(path, folder), path, code, "\n".join(shown), predictions)


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _predicted(cell: str) -> str:
    """What stands in `predict(...)`, or the whole cell where there is none; "" for the dots."""
    try:
        calls = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return cell.strip()
    for call in calls:
        if ast.unparse(call.func) == "predict" and call.args:
            words = call.args[0]
            text = str(words.value) if isinstance(words, ast.Constant) else ast.unparse(words)
            return "" if text.strip() == UNWRITTEN else text.strip()
    return cell.strip()


def _printed(outputs: list[dict[str, Any]]) -> Iterator[str]:
    for output in outputs:
        yield _text(output.get("text", ""))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield html.unescape(_text(data))


# ---- an answer with what it needs ---------------------------------------------------------------


def program(code: list[str], exercise: str) -> str:
    r"""The statements that an exercise's function needs, and its own, in their order.

    Args:
        code: the notebook's code cells.
        exercise: the function's name; where several cells define it, the last is taken.

    Raises:
        SyntaxError: if the cell that defines it is no Python.

    >>> program(["import math", "x = slow()", "def half(v):\n    return v / 2", "def f(v):\n"
    ...          "    return half(math.pi * v)"], "f").splitlines()[0]
    'import math'
    """
    statements, end = _statements(code, exercise)
    chosen = {number for number, s in enumerate(statements) if _takes_all(s)}
    wanted, known = [exercise], set(dir(builtins))
    while wanted:
        name = wanted.pop()
        if name in known:
            continue
        known.add(name)
        for number in _binding(statements, name, end):
            chosen.add(number)
            wanted += _needed(statements[number])
    return "\n\n".join(ast.unparse(statements[number]) for number in sorted(chosen)) + "\n"


def _statements(code: list[str], exercise: str) -> tuple[list[ast.stmt], int]:
    """All of the notebook's, and how many come before the check."""
    statements: list[ast.stmt] = []
    end = 0
    for cell in code:
        defines = re.search(rf"^def {exercise}\b", cell, re.MULTILINE)
        try:
            statements += ast.parse(_python(cell)).body
        except SyntaxError:
            if defines:
                raise
        if defines or (f"checks.{exercise}(" in cell and not end):
            end = len(statements)
    return statements, end


def _python(cell: str) -> str:
    """A cell without the lines that are IPython's: %matplotlib, !pip, name?."""
    lines = (
        "" if re.match(r"\s*[%!?]|\s*[\w.]+\?+\s*$", line) else line for line in cell.splitlines()
    )
    return "\n".join(lines)


def _takes_all(statement: ast.stmt) -> bool:
    """Whether it is `from module import *`."""
    return isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*"


def _binding(statements: list[ast.stmt], name: str, end: int) -> list[int]:
    """Which statements give the name its value when the check comes; later ones if none before."""
    every = [number for number, s in enumerate(statements) if name in _bound(s)]
    before = [number for number in every if number < end]
    if not before:
        return every[:1]
    first = len(before) - 1
    while (
        first > 0
        and name in _needed(statements[before[first]])
        and not _is_def(statements[before[first]])
    ):  # x += 1 needs the x before
        first -= 1
    return before[first:]


def _is_def(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


def _bound(statement: ast.stmt) -> set[str]:
    """The names that it gives a value at the notebook's level."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    found: set[str] = set()
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {a.asname or a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


def _needed(statement: ast.stmt) -> list[str]:
    """The notebook's names that it reads, in functions too, less what these keep to themselves."""

    def of(table: symtable.SymbolTable) -> Iterator[str]:
        whole = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (whole or symbol.is_global()):
                yield symbol.get_name()
        for inner in table.get_children():
            yield from of(inner)

    names = list(of(symtable.symtable(ast.unparse(statement), "answer", "exec")))
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        names.append(statement.target.id)
    return names
