import importlib.util
import os
import socket
import time
from pathlib import Path

import pytest

from akt_course import checks, grading
from akt_course.grading import Grade, apart, as_csv, as_table, grade, run, write
from akt_course.submissions import find, read
from akt_lab.errors import AktError
from tests.course.test_submissions import cell, hand_in

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "grading.py"
spec = importlib.util.spec_from_file_location("benchmark_grading", BENCHMARK)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_every_exercise_is_graded_and_has_a_mistake():
    assert sorted(grading.NAMES) == sorted(checks.__all__) == sorted(benchmark.MISTAKES)


def marks(folder):
    books = [read(file, folder) for file in find(folder)]
    return {(g.student, g.exercise): g for g in grade(books, workers=2)}


@pytest.mark.slow
def test_a_class_made_from_solutions_stubs_and_mistakes(tmp_path):
    wanted = {s: benchmark.hand_in(tmp_path, s, numbers="18") for s in range(6)}
    found = marks(tmp_path)
    assert len(found) == 6 * len(grading.NAMES)
    for student, right in wanted.items():
        for exercise in grading.NAMES:
            got = found[f"student-{student:02d}", exercise]
            assert got.mark == right.get(exercise, "not done"), got
    assert {g.mark for g in found.values()} == set(grading.MARKS)


def test_a_tick_alone_two_notebooks_and_a_word_that_is_no_python(tmp_path):
    hand_in(tmp_path / "ada.ipynb", cell("✓ pack: look", "markdown"))
    hand_in(tmp_path / "bob" / "1.ipynb", cell("def pack(q, bits)\n    return q"))
    hand_in(tmp_path / "bob" / "2.ipynb", cell("def pack(q, bits):\n    raise NotImplementedError"))
    found = marks(tmp_path)
    assert found["ada", "pack"].mark == "cheated"
    assert "no cell defines" in found["ada", "pack"].said
    assert found["bob", "pack"].mark == "wrong"  # of two, the better
    assert "is no Python" in found["bob", "pack"].said
    assert found["bob", "akt_loss"].mark == "not done"


def test_a_tick_above_an_answer_that_misses_something_is_no_accusation(tmp_path):
    tick = cell("✓ pack: all", "markdown")
    hand_in(tmp_path / "ada.ipynb", tick, cell("def pack(q, bits):\n    return of_the_rest(q)"))
    grade = marks(tmp_path)["ada", "pack"]
    assert grade.mark == "wrong"
    assert "shows a ✓" in grade.said
    assert "NameError" in grade.said


def child(body, limit=60.0, name="pack"):
    return apart(name, f"import os, socket\ndef {name}(q, bits):\n    {body}", os.getcwd(), limit)


def test_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "crashed (exit code 3)" in child("os._exit(3)").message
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        said = child(f"socket.create_connection({address})").message
    assert "without a network" in said
    assert "pid" not in child("print(os.getpid())").message


def test_what_python_cannot_stop_is_ended_from_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    said = child("sum(iter(int, 1))", limit=3.0).message  # one endless call of compiled code
    assert "so it was ended" in said
    assert time.monotonic() - start < 60


def test_what_an_answer_needs_may_fail():
    assert "ZeroDivisionError" in run("pack", "1 / 0").message


GRADES = [
    Grade("ada", name, "right" if name != "pack" else "cheated", "=1+1", "a.ipynb", "none")
    for name in grading.NAMES
]


def test_the_table_and_the_csv(tmp_path):
    table = as_table(GRADES)
    assert "ada       ✓✓  ✓✓  ✓✓  ✓✓  ✓✓  ✓✓  ✓✓  ✓!  15 of 16" in table
    assert "! ada       pack: =1+1" in table
    rows = as_csv(GRADES).splitlines()
    assert rows[0] == "student,exercise,mark,said,notebook,predictions"
    assert rows[1] == "ada,affine_quantize,right,'=1+1,a.ipynb,none"  # no formula in Excel
    write(GRADES, tmp_path / "new" / "grades.csv")
    assert (tmp_path / "new" / "grades.csv").read_text("utf-8-sig") == as_csv(GRADES)
    with pytest.raises(AktError):
        write(GRADES, tmp_path)
