"""A class's notebooks graded: every answer is run again and checked, whatever tick it shows.

Each answer runs in a process of its own, with a time limit, in an empty folder and without a
network. That protects from accidents: endless loops, crashes, copied ticks, a forgotten download.
It does not protect from malice: the process may read and write what its user may, start others, and
who sets out to mislead the check from within can. Answers of strangers belong in a container.
"""

import csv
import io
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from akt_course import checks
from akt_course.checks.answers import SECONDS, Result
from akt_course.checks.time_limit import OutOfTime, within
from akt_course.submissions import Notebook, program
from akt_lab.errors import AktError

EXERCISES = {  # by notebook: the required one, the stretch
    1: ("affine_quantize", "best_clip"),
    2: ("gradient_norms", "explosion_ratio"),
    3: ("bns_loss", "capture_inputs"),
    4: ("attention_maps", "divergence"),
    5: ("akt_loss", "dead_terms"),
    6: ("bootstrap_difference", "seeds_needed"),
    7: ("hutchinson_trace", "top_eigenvalue"),
    8: ("fold_batch_norm", "pack"),
}
NAMES = [name for pair in EXERCISES.values() for name in pair]
MARKS = {"right": "✓", "wrong": "✗", "cheated": "!", "not done": "·"}  # the best first
ALONE = ("what it needs", "it stopped with NameError")  # may be our fault: it ran without the rest
LIMIT = 120.0  # seconds by the clock, for what the check itself cannot stop
# Forked from a server that has PyTorch in memory, a process takes a tenth of a second; Windows
# has no fork, and each imports it anew.
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@dataclass(frozen=True)
class Grade:
    """What became of one exercise of one student.

    Attributes:
        student: whose.
        exercise: the function that was asked for.
        mark: one of `MARKS`. "cheated": the notebook shows a ✓, and the answer does not pass. The
            tick was pasted, or the answer changed after it was checked: ask.
        said: what the check said now.
        notebook: the file, or nothing.
        predictions: what was predicted in that notebook.
    """

    student: str
    exercise: str
    mark: str
    said: str
    notebook: str = ""
    predictions: str = ""


# ---- in a process of its own --------------------------------------------------------------------

FORBIDDEN = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")


def _no_network(event: str, _: Any) -> None:
    """An audit hook, which nothing that runs later can take away."""
    if event in FORBIDDEN:
        raise PermissionError(f"an answer is graded without a network ({event})")


def _child(send: Connection, exercise: str, text: str, folder: str) -> None:
    """Run and check one answer; what it prints is dropped."""
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    sys.addaudithook(_no_network)
    result = run(exercise, text)
    send.send_bytes(json.dumps([result.passed, result.message, result.written]).encode())
    os._exit(0)  # whatever still runs in the background


def run(exercise: str, text: str) -> Result:
    """Run a program here, and ask the check about the function that it defines."""
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        within(SECONDS, lambda: exec(compile(text, "answer", "exec"), space))
    except OutOfTime:
        return Result(exercise, False, "what it needs takes too long: does a loop never end?")
    except BaseException as error:
        return Result(exercise, False, f"what it needs stops with {type(error).__name__}: {error}")
    return getattr(checks, exercise)(space[exercise])


def apart(exercise: str, text: str, folder: str, limit: float = LIMIT) -> Result:
    """As `run`, in a process of its own, in that folder, for `limit` seconds at most."""
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(["akt_course.grading"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(  # type: ignore[attr-defined]
        target=_child, args=(send, exercise, text, folder), daemon=True
    )
    process.start()
    send.close()
    try:
        if not receive.poll(limit):
            says = f"not done after {limit:g} seconds, so it was ended: does a loop never end?"
            return Result(exercise, False, says)
        passed, message, written = json.loads(receive.recv_bytes())
        return Result(exercise, bool(passed), str(message), bool(written))
    except EOFError:
        process.join()
        return Result(exercise, False, f"its process crashed (exit code {process.exitcode})")
    finally:
        process.kill()
        process.join()
        receive.close()


# ---- a class ------------------------------------------------------------------------------------


def grade(
    notebooks: Iterable[Notebook],
    workers: int,
    limit: float = LIMIT,
    done: Callable[[], object] = lambda: None,
) -> list[Grade]:
    """Grade every exercise of every student.

    Args:
        notebooks: of all students; where two of one student answer an exercise, the better counts.
        workers: answers at a time.
        limit: seconds by the clock for an answer.
        done: called after each, for progress; `len(NAMES)` times a student.

    Returns:
        By student, in the course's order.
    """
    by_student: dict[str, list[Notebook]] = {}
    for notebook in notebooks:
        by_student.setdefault(notebook.student, []).append(notebook)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        asked = [
            pool.submit(_one, student, exercise, of, folder, limit)
            for student, of in sorted(by_student.items())
            for exercise in NAMES
        ]
        try:
            for _ in as_completed(asked):
                done()
        except BaseException:  # Ctrl-C: those that have not begun never will
            for future in asked:
                future.cancel()
            raise
    return [future.result() for future in asked]


def _one(
    student: str, exercise: str, notebooks: list[Notebook], folder: str, limit: float
) -> Grade:
    graded = [_answer(exercise, n, folder, limit) for n in notebooks if n.answers(exercise)]
    if graded:
        return min(graded, key=lambda g: list(MARKS).index(g.mark))
    claimed = [n for n in notebooks if n.claims(exercise)]
    says = "no cell defines this function"
    if claimed:
        says = f"the notebook shows a ✓, but {says}"
    mark = "cheated" if claimed else "not done"
    return Grade(student, exercise, mark, says, *(str(n.path) for n in claimed[:1]))


def _answer(exercise: str, notebook: Notebook, folder: str, limit: float) -> Grade:
    try:
        result = apart(exercise, program(notebook.code, exercise), folder, limit)
    except SyntaxError as error:
        result = Result(exercise, False, f"its cell is no Python: {error.msg}, line {error.lineno}")
    mark, says = "right" if result.passed else "wrong", result.message
    if not result.written:
        mark = "not done"
    if not result.passed and notebook.claims(exercise):
        mark = "wrong" if says.startswith(ALONE) else "cheated"
        says = f"the notebook shows a ✓, but now: {says}"
    predictions = " | ".join(notebook.predictions)
    return Grade(notebook.student, exercise, mark, says, str(notebook.path), predictions)


# ---- how it is shown ----------------------------------------------------------------------------


def as_table(grades: list[Grade]) -> str:
    """A line a student, a column an exercise; below, what was said of what is not right."""
    students = list(dict.fromkeys(g.student for g in grades))
    width = max(map(len, [*students, "notebook"]))
    lines = [f"{'notebook':{width}}  " + "   ".join(map(str, EXERCISES)) + "   right"]
    for student in students:
        marks = [MARKS[g.mark] for g in grades if g.student == student]
        pairs = "  ".join(a + b for a, b in zip(marks[::2], marks[1::2], strict=True))
        lines.append(f"{student:{width}}  {pairs}  {marks.count('✓'):2} of {len(NAMES)}")
    lines += ["", "  ".join(f"{sign} {mark}" for mark, sign in MARKS.items()), ""]
    lines += [
        f"{MARKS[g.mark]} {g.student:{width}}  {g.exercise}: {g.said}"
        for g in grades
        if g.mark in ("wrong", "cheated")
    ]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(grades: list[Grade]) -> str:
    """A line for each student and exercise."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["student", "exercise", "mark", "said", "notebook", "predictions"])
    for g in grades:
        row = (g.student, g.exercise, g.mark, g.said, g.notebook, g.predictions)
        rows.writerow([f"'{v}" if v[:1] in ("=", "+", "-", "@") else v for v in row])  # no formulas
    return text.getvalue()


def write(grades: list[Grade], file: Path) -> None:
    """The CSV, with a mark by which Excel knows its letters.

    Raises:
        AktError: if it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(as_csv(grades), encoding="utf-8-sig")
    except OSError as error:
        raise AktError(f"{file}: {error.strerror}") from error
