from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted((NOTEBOOKS / "src").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_committed_notebook_is_what_its_source_makes(source):
    made = jupytext.read(source)
    committed = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    pairs = [[(c.cell_type, c.source) for c in book.cells] for book in (made, committed)]
    assert pairs[0] == pairs[1]
    assert not any(cell.get("outputs") for cell in committed.cells)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_notebook_runs(source, tmp_path, digits):
    book = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in book.cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
