"""`akt-lab grade`: a class's notebooks, every exercise run again and checked."""

import argparse
import os
import sys
from pathlib import Path

from akt_lab.commands.options import path, positive
from akt_lab.errors import AktError


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="a class's notebooks, every exercise run again and checked",
        description="Runs each exercise's cell again, with what it needs, against its check, in a "
        "process of its own with a time limit and without a network. Prints a line a student, and "
        "writes a CSV with what the check said, and what was predicted. A tick without an answer "
        "that passes is marked, as `cheated`.",
    )
    parser.add_argument(
        "folder", type=path, metavar="FOLDER",
        help="what was handed in: a folder for each student, or notebooks with their names",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=path, metavar="FILE", default=Path("grades.csv"),
        help="the CSV (default: grades.csv)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="answers at a time (default: one a core)"
    )
    parser.add_argument(
        "--seconds", type=positive, metavar="N", default=120,
        help="by the clock, for an answer that cannot be stopped otherwise (default: 120)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Print the table, write the CSV; a file that is no notebook is named, and left out."""
    from tqdm.auto import tqdm

    from akt_course import grading, submissions

    notebooks = []
    for file in submissions.find(options.folder):
        try:
            notebooks.append(submissions.read(file, options.folder))
        except AktError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not notebooks:
        raise AktError(f"{options.folder}: none of its notebooks can be read")
    students = {notebook.student for notebook in notebooks}
    with tqdm(total=len(students) * len(grading.NAMES), desc="answers", leave=False) as bar:
        jobs = options.jobs or os.cpu_count() or 1
        grades = grading.grade(notebooks, jobs, options.seconds, bar.update)
    grading.write(grades, options.out)
    sys.stdout.write(grading.as_table(grades))
    print(options.out, file=sys.stderr)
    return 0
