"""The course: built from its sources, runs offline; stubs fail their check, solutions pass."""

import asyncio
import importlib.util
import re
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import zmq
import zmq.asyncio

from akt_course import checks

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
spec = importlib.util.spec_from_file_location("notebooks_course", NOTEBOOKS / "course.py")
course = importlib.util.module_from_spec(spec)
spec.loader.exec_module(course)
by_name = pytest.mark.parametrize("source", course.SOURCES, ids=lambda p: p.stem)


def results(book):
    """What each check of an executed notebook said, by exercise."""
    said = {}
    for cell in book.cells:
        if "check" in cell.metadata.get("tags", ()):
            (text,) = (o["data"]["text/plain"] for o in cell.outputs if "data" in o)
            mark, exercise, _ = re.fullmatch(r"(.) (\w+): (.*)", text, re.DOTALL).groups()
            said[exercise] = (mark, text)
    return said


@by_name
def test_committed_is_what_the_source_makes(source):
    for made, place in zip(course.read(source), course.places(source), strict=True):
        committed = nbformat.read(place, as_version=4)
        assert made == committed, f"{place.name}: python notebooks/course.py build"
        assert not any(cell.get("outputs") for cell in committed.cells)


@by_name
def test_keeps_to_the_plan(source):
    student, solution = course.read(source)
    prose = "\n".join(c.source for c in student.cells if c.cell_type == "markdown")
    prose = re.sub(r"<details>.*?</details>", "", prose, flags=re.DOTALL)  # hints are folded away
    predictions = [c for c in student.cells if "prediction" in c.metadata.get("tags", ())]
    assert 35 <= len(student.cells) - len(predictions) <= 50
    assert 900 <= len(re.findall(r"\w*[A-Za-z]\w*", prose)) <= 1500
    code = [c.source for c in solution.cells if c.cell_type == "code"]
    assert max(len([x for x in text.splitlines() if x]) for text in code) <= 15
    text = "\n".join(c.source for c in student.cells)
    exercises = text.count("raise NotImplementedError")
    assert exercises == 2  # one required, one stretch
    for step in (1, 2, 3):
        assert text.count(f"<details><summary>Hint {step}") == exercises
    for part in ("After this notebook you can", "redict", "What would prove", "## Recap"):
        assert part in text
    assert "# SOLUTION" not in text
    assert "plt.show" not in text  # course.show asks for alt text


async def both(source, folder):
    """The student's notebook and the solution's, side by side."""
    return await asyncio.gather(*(course.execute(p, folder, True) for p in course.places(source)))


@by_name
def test_every_prediction_has_a_cell_and_is_read_back(source):
    cells = [c for c in course.read(source)[0].cells if c.source]
    asked = [n for n, c in enumerate(cells) if re.search(r"Predict\b", c.source)]
    written = [n for n, c in enumerate(cells) if "prediction" in c.metadata.get("tags", ())]
    assert [n + 1 for n in asked if cells[n].cell_type == "markdown"] == written
    for here, below in zip(written, [*written[1:], len(cells)], strict=True):
        between = "\n".join(c.source for c in cells[here:below])
        assert re.search(r"^ *(show|read_back)\(|my_ranking, 2", between, re.MULTILINE)


@pytest.mark.slow
@by_name
def test_runs(source, tmp_path, digits, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the two kernels, side by side
    shutil.copytree(ROOT / "results", tmp_path / "results")
    for (book, seconds), place, mark in zip(
        asyncio.run(both(source, tmp_path)), course.places(source), "✗✓", strict=True
    ):
        print(f"{place.name}: {seconds:.0f} s in smoke size, budget {book.metadata.akt_lab.budget}")
        assert not course.errors(book)
        said = results(book)
        assert len(said) == 2
        assert all(found == mark for found, _ in said.values()), said
        assert set(said) <= set(checks.__all__)
        pictures = [
            o["data"]["text/html"]
            for cell in book.cells
            for o in cell.get("outputs", ())
            if "<img" in o.get("data", {}).get("text/html", "")
        ]
        assert len(pictures) >= 3
        assert not any('alt=""' in html for html in pictures)
        assert not any(
            "image/png" in o.get("data", {}) for c in book.cells for o in c.get("outputs", ())
        )


def test_a_reply_that_came_while_something_was_sent_is_found():
    asyncio.run(answer_while_sending())


async def answer_while_sending():
    """As nbclient does with an Output widget; alone, the client would wait for a minute."""
    with ExitStack() as open_:
        ours, theirs = (open_.enter_context(c()) for c in (zmq.asyncio.Context, zmq.Context))
        client = open_.enter_context(ours.socket(zmq.DEALER))
        kernel = open_.enter_context(theirs.socket(zmq.ROUTER))
        port = kernel.bind_to_random_port("tcp://127.0.0.1")
        client.connect(f"tcp://127.0.0.1:{port}")
        send = zmq.Socket.shadow(client.underlying).send  # jupyter_client's way
        send(b"request")
        name, _ = kernel.recv_multipart()
        waiting = client.poll(60_000)
        await asyncio.sleep(0.2)
        kernel.send_multipart([name, b"reply"])
        time.sleep(0.2)  # the reply comes while the client is busy
        send(b"answer to a widget")
        channel = SimpleNamespace(socket=client)
        nbclient = SimpleNamespace(kc=SimpleNamespace(shell_channel=channel))
        listening = asyncio.create_task(course.listen(nbclient))
        assert await asyncio.wait_for(waiting, 20)
        listening.cancel()


def test_every_check_is_asked_for():
    asked = "\n".join(source.read_text() for source in course.SOURCES)
    assert [name for name in checks.__all__ if f"checks.{name}({name})" not in asked] == []


def test_an_error_in_an_output_widget_is_found():
    output = {"output_type": "error", "ename": "E", "evalue": "hidden", "traceback": []}
    state = {"state": {"a": {"state": {"outputs": [output]}}}}
    book = nbformat.v4.new_notebook()
    book.metadata.widgets = {"application/vnd.jupyter.widget-state+json": state}
    assert course.errors(book) == ["hidden"]


def test_solutions_leave_a_stub_with_its_indent():
    text = "def f(x):\n    # SOLUTION\n    return x\n    # END\n"
    assert course.SOLUTION.sub(course.STUB, text) == (
        "def f(x):\n    raise NotImplementedError  # your code here\n"
    )
    assert course.SOLUTION.sub(r"\2", text) == "def f(x):\n    return x\n"
