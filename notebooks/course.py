"""The course from its sources: builds, runs and packs the notebooks.

    python notebooks/course.py build          # student's and solution's .ipynb from src/*.py
    python notebooks/course.py run [NAME...]  # executes both, offline; minutes against the budget
    python notebooks/course.py zip            # one file for a learning management system

A source is a jupytext py:percent file. In it, what stands between `# SOLUTION` and `# END` is the
solution's; the student gets a line that raises NotImplementedError. A cell's `smoke="..."` holds
the small sizes that tests run it with; `budget=` in the first cell, its minutes on two cores.
"""

import argparse
import asyncio
import copy
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
SOURCES = sorted((HERE / "src").glob("[0-9]-*.py"))
EXECUTED = HERE.parent / "build" / "notebooks"
SOLUTION = re.compile(r"^( *)# SOLUTION\n(.*?)^ *# END\n?", re.DOTALL | re.MULTILINE)
STUB = r"\1raise NotImplementedError  # your code here\n"
OFFLINE = """\
import socket
def _no_network(self, address):
    raise OSError(f"the course opened a connection to {address}")
socket.socket.connect = _no_network
"""


# ---- build --------------------------------------------------------------------------------------


def read(source: Path) -> tuple[NotebookNode, NotebookNode]:
    """The student's notebook and the solution's, without outputs."""
    book = jupytext.read(source)
    book.metadata = {
        "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "akt_lab": {"budget": book.cells[0].metadata.get("budget")},
    }
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number:02d}"
    student, solution = book, copy.deepcopy(book)
    for cells, by in ((student.cells, STUB), (solution.cells, r"\2")):
        for cell in cells:
            cell.source = SOLUTION.sub(by, cell.source + "\n").rstrip("\n")
    return student, solution


def places(source: Path) -> tuple[Path, Path]:
    """Where the two are committed."""
    name = f"{source.stem}.ipynb"
    return HERE / name, HERE / "solutions" / name


def chosen(names: list[str]) -> list[Path]:
    """The sources whose names start so; all without names."""
    return [s for s in SOURCES if not names or s.stem.startswith(tuple(names))]


def build(names: list[str]) -> None:
    """Write both notebooks of the sources."""
    (HERE / "solutions").mkdir(exist_ok=True)
    for source in chosen(names):
        for book, place in zip(read(source), places(source), strict=True):
            nbformat.write(book, place)


# ---- run ----------------------------------------------------------------------------------------


async def execute(place: Path, folder: Path, smoke: bool) -> tuple[NotebookNode, float]:
    """The notebook, executed in `folder` with sockets blocked, and the seconds that it took.

    Raises:
        CellExecutionError: if a cell raises.
    """
    book = nbformat.read(place, as_version=4)
    cells = [nbformat.v4.new_code_cell(OFFLINE, metadata={"tags": ["remove-cell"]})]
    for cell in book.cells:
        cells.append(cell)
        if smoke and "smoke" in cell.metadata:
            cells.append(nbformat.v4.new_code_cell(cell.metadata.smoke))
    book.cells = cells
    start = time.monotonic()
    limit = 240 if smoke else 1800  # seconds a cell: a kernel that hangs is told by its cell
    client = NotebookClient(book, timeout=limit, resources={"metadata": {"path": str(folder)}})
    listening = asyncio.create_task(listen(client))
    try:
        await client.async_execute()
    finally:
        listening.cancel()
    return book, time.monotonic() - start


async def listen(client: NotebookClient) -> None:
    """Look once a second whether the kernel has replied.

    nbclient answers an Output widget on the socket on which it waits for the cell's reply. If the
    reply comes just then, sending takes the signal that it has come, and the waiting goes on; any
    other look at the socket ends it.
    """
    while True:
        await asyncio.sleep(1)
        if client.kc and (socket := client.kc.shell_channel.socket):
            await socket.poll(1)


def errors(book: NotebookNode) -> list[str]:
    """Tracebacks anywhere, Output widgets included, where an exception ends without a word."""
    state = book.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    models = [m["state"].get("outputs", ()) for m in state.get("state", {}).values()]
    outputs = [cell.get("outputs", ()) for cell in book.cells]
    every = [output for group in (*models, *outputs) for output in group]
    return [o["evalue"] for o in every if o["output_type"] == "error"]


def run(names: list[str], smoke: bool) -> int:
    """Execute student's and solution's notebooks into build/.

    Returns:
        How many have an error, or took longer than their budget where AKT_STRICT_TIME is set.
    """
    strict, bad = bool(os.environ.get("AKT_STRICT_TIME")), 0
    for source in chosen(names):
        for place in places(source):
            book, seconds = asyncio.run(execute(place, place.parent, smoke))
            target = EXECUTED / place.relative_to(HERE)
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(book, target)
            budget = book.metadata.akt_lab.budget
            late = not smoke and seconds > 60 * budget
            bad += bool(errors(book)) or (late and strict)
            mark = "over its budget of" if late else "of"
            name = place.relative_to(HERE)
            print(
                f"{name!s:58} {seconds / 60:5.1f} {mark} {budget} minutes",
                *errors(book),
                flush=True,
            )
    return bad


# ---- pack ---------------------------------------------------------------------------------------


def pack(target: Path) -> None:
    """The student's notebooks, the results that they read, and the package as a wheel."""
    root = HERE.parent
    wheels = root / "build" / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), "."]
    subprocess.run(command, check=True, cwd=root)
    files = {place: f"notebooks/{place.name}" for place, _ in map(places, SOURCES)}
    files |= {file: f"results/{file.name}" for file in (root / "results").glob("*.jsonl")}
    for name in ("gradients_by_bits", "error_cost"):  # what notebook 6 judges by
        files |= {root / "figures" / f"{name}.csv": f"figures/{name}.csv"}
    wheel = max(wheels.glob("akt_lab-*.whl"))
    files |= {wheel: wheel.name, HERE / "START-HERE.md": "START-HERE.md"}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file, name in sorted(files.items(), key=lambda pair: pair[1]):
            packed.write(file, f"akt-lab-course/{name}")
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB, {len(files)} files")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("build", "run", "zip"))
    parser.add_argument("names", nargs="*", help="notebooks, by the start of their names")
    parser.add_argument("--smoke", action="store_true", help="small sizes: seconds, not minutes")
    asked = parser.parse_args()
    if asked.do == "build":
        build(asked.names)
    elif asked.do == "zip":
        pack(HERE.parent / "build" / "akt-lab-course.zip")
    else:
        return min(1, run(asked.names, asked.smoke))
    return 0


if __name__ == "__main__":
    sys.exit(main())
