import json

import pytest

from akt_course.submissions import Notebook, find, program, read
from akt_lab.errors import AktError
from tests.test_notebooks import course


def cell(source, kind="code", outputs=(), tags=()):
    return {
        "cell_type": kind, "source": source.splitlines(True), "outputs": list(outputs),
        "metadata": {"tags": list(tags)},
    }  # fmt: skip


def hand_in(file, *cells):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cells": list(cells)}), encoding="utf-8")
    return file


def test_whose_it_is_and_what_it_shows(tmp_path):
    html = {"output_type": "display_data", "data": {"text/html": ["<p>✓ pack: all</p>"]}}
    place = hand_in(
        tmp_path / "ada" / "work" / "8.ipynb",
        cell("my_ranking = [1]", tags=["prediction"]),
        cell('predict("""\nmore, I think\n""")', tags=["prediction"]),
        cell('predict("""\n...\n""")', tags=["prediction"]),
        cell("predict(more, I 'think)", tags=["prediction"]),
        cell("def pack(q, bits): ..."),
        cell("checks.pack(pack)", outputs=[html]),
        cell("✓ best_clip: pasted into the text", "markdown"),
    )
    hand_in(tmp_path / "ada" / ".ipynb_checkpoints" / "8-checkpoint.ipynb")
    assert find(tmp_path) == [place]
    book = read(place, tmp_path)
    assert book.student == "ada"
    written = ["my_ranking = [1]", "more, I think", "predict(more, I 'think)"]
    assert book.predictions == written
    assert book.answers("pack")
    assert not book.answers("best_clip")
    assert book.claims("pack")
    assert book.claims("best_clip")
    assert not book.claims("akt_loss")


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("ada.ipynb", "ada"),
        ("ada-8-to-the-edge.ipynb", "ada"),
        ("Ada L_12_file_8-to-the-edge (1).ipynb", "Ada L_12_file"),
        ("8-to-the-edge.ipynb", "class"),
    ],
)
def test_names_of_files_at_the_top(name, student, tmp_path):
    folder = tmp_path / "class"
    assert read(hand_in(folder / name), folder).student == student


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(AktError, match="no such folder"):
        find(tmp_path / "none")
    with pytest.raises(AktError, match=r"no \.ipynb in it"):
        find(tmp_path)
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(AktError, match="no notebook that can be read"):
        read(tmp_path / "a.ipynb", tmp_path)


CODE = [
    "%matplotlib inline\nimport math as m\nfrom statistics import *\nimport os",
    "teacher = train_for_minutes()\nfactor = 1",
    "factor = 2\nfactor += 1\nother = teacher.weight",
    "def helper(x):\n    return factor * x",
    "def answer(x):\n    old = x\n    return old",
    "this is no Python",
    "def answer(x):\n    other = [helper(v) for v in x]\n    return m.pi, other",
    "checks.answer(answer)",
    "factor = 9\nteacher.train()",
]


def test_an_answer_comes_with_what_it_needs_and_no_more():
    assert program(CODE, "answer").split("\n\n") == [
        "import math as m",
        "from statistics import *",
        "factor = 2",
        "factor += 1",
        "def helper(x):\n    return factor * x",
        "def answer(x):\n    other = [helper(v) for v in x]\n    return (m.pi, other)\n",
    ]


def test_what_is_defined_below_is_found_too():
    assert "z = 3" in program(["def f():\n    return z", "checks.f(f)", "z = 3"], "f")


def test_an_answer_that_is_no_python_says_so():
    with pytest.raises(SyntaxError):
        program(["def f(x:\n    return x"], "f")


@pytest.mark.parametrize("source", course.SOURCES, ids=lambda p: p.stem)
def test_of_the_course_s_solutions_nothing_that_trains_is_taken(source):
    _, solution = course.read(source)
    code = [c.source for c in solution.cells if c.cell_type == "code"]
    for c in solution.cells:
        if "exercise" in c.metadata.get("tags", ()):
            name = c.source.partition("def ")[2].partition("(")[0]
            text = program(code, name)
            assert f"def {name}(" in text
            assert "load_bench(" not in text
            assert Notebook("", source, code, "", []).answers(name)
