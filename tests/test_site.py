"""The static site: math is MathML, every image has its text, and nothing comes from elsewhere."""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from akt_course.show import as_html
from akt_lab.runs.results import read

ROOT = Path(__file__).parents[1]
REMOTE = re.compile(r"^(https?:)?//")
LOADS = {"script", "img", "link", "iframe", "source", "video", "audio", "object", "embed"}
MATH = r"""# A page
Inline $\hat x \in [low, high]$, and a block:

$$q = \mathrm{clamp}\left(\mathrm{round}\left(\frac{x}{s}\right) + z,\; 0,\; 2^{b}-1\right)
\qquad \|x\|_2 \cdot \sum_i \alpha_i$$

<details><summary>Hint 1: a word</summary>

Call `x.min()`
for $\sigma^2$.

</details>
"""

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page loads, its images, its formulas, and the words that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.remote, self.images, self.formulas, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        if tag in LOADS:
            loaded = [given.get(name, "") for name in ("src", "href", "srcset", "data")]
            self.remote += [(tag, value) for value in loaded if REMOTE.match(value)]
        if "url(" in given.get("style", ""):
            self.remote.append((tag, given["style"]))
        if tag == "img":
            self.images.append(given)
        if tag == "math":
            self.formulas.append(given["display"])

    def handle_data(self, data):
        self.words += data


def widget(models):
    """A notebook's widget state from {id: (model_name, state)}."""
    state = {i: {"model_name": name, "state": value} for i, (name, value) in models.items()}
    return {"application/vnd.jupyter.widget-state+json": {"state": state}}


@pytest.fixture(scope="module")
def site(tmp_path_factory, explore):
    """One executed notebook by hand: a picture, a slider with its picture, a bar, a formula."""
    import matplotlib.pyplot as plt

    folder = tmp_path_factory.mktemp("site")
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, 1])
    picture = as_html(figure, alt="a line <up>", reading="it rises")
    plt.close(figure)
    inside = new_output("display_data", {"text/html": picture.replace("a line", "by slider")})

    def view(name):
        data = {"application/vnd.jupyter.widget-view+json": {"model_id": name}, "text/plain": name}
        return new_output("display_data", data)

    book = new_notebook(cells=[
        new_code_cell("hidden = 1", metadata={"tags": ["remove-cell"]}),
        new_markdown_cell(MATH),
        new_code_cell("show()", outputs=[new_output("display_data", {"text/html": picture})]),
        new_code_cell("slide()", outputs=[view("box"), view("bar")]),
    ])  # fmt: skip
    book.metadata.language_info = {"name": "python"}
    book.metadata.widgets = widget({
        "box": ("VBoxModel", {"children": ["IPY_MODEL_bits", "IPY_MODEL_out"]}),
        "bits": ("IntSliderModel", {"description": "bits"}),
        "out": ("OutputModel", {"outputs": [inside]}),
        "bar": ("HBoxModel", {"children": []}),
    })  # fmt: skip
    (folder / "notebooks").mkdir()
    nbformat.write(book, folder / "notebooks" / "1-by-hand.ipynb")
    (folder / "course.zip").write_bytes(b"the course")
    command = [sys.executable, str(ROOT / "site" / "build.py"), "--out", str(folder / "html")]
    command += ["--notebooks", str(folder / "notebooks"), "--zip", str(folder / "course.zip")]
    done = subprocess.run(
        [*command, "--quick", "--runs", str(explore[1])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_nothing_comes_from_elsewhere(site):
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) >= 4
    assert [page.remote for page in pages.values() if page.remote] == []
    for path in [*site.rglob("*.css"), *site.rglob("*.js")]:
        text = path.read_text()
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text), path
        assert not re.search(r"(cdn\.|unpkg|cdnjs|googleapis)", text, re.IGNORECASE), path


def test_formulas_are_mathml(site):
    page = Page((site / "notebooks" / "1-by-hand.html").read_text())
    assert page.formulas == ["inline", "block", "inline"]
    assert "\\" not in page.words  # no command was left unread
    assert "`" not in page.words  # a hint's code is set as code


def test_every_image_has_its_text_and_its_file(site):
    found = 0
    for path in site.rglob("*.html"):
        for image in Page(path.read_text()).images:
            found += 1
            assert image.get("alt", "").strip(), image["src"][:80]
            if not image["src"].startswith("data:"):
                assert (path.parent / image["src"]).exists()
    assert found >= 2 + len(list((ROOT / "figures").glob("*.png")))


def test_a_widget_leaves_its_picture_and_a_line(site):
    page = Page((site / "notebooks" / "1-by-hand.html").read_text())
    assert [i["alt"] for i in page.images] == ["a line <up>", "by slider <up>"]
    assert "In a running notebook: bits." in page.words
    assert "hidden = 1" not in page.words


def test_the_start_page_leads_everywhere(site):
    index = (site / "index.html").read_text()
    for name in ("explore.html", "akt-lab-course.zip", "start-here.html", "for-teachers.html"):
        assert f'href="{name}"' in index
        assert (site / name).exists()
    assert (site / "akt-lab-course.zip").read_bytes() == b"the course"
    assert "{{" not in index


def test_the_answer_is_that_of_the_results(site, monkeypatch):
    """Which benchmarks/pieces.py prints."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pieces = importlib.import_module("pieces")
    files = (ROOT / "results" / f"{name}.jsonl" for name in ("photographs", "recipe"))
    found = pieces.table([line for path in files for line in read(path)])
    found = found[(found["bits"] == "3w3a") & (found["images"] == found["images"].min())]
    words = " ".join(Page((site / "index.html").read_text()).words.split())
    for arm, says in (("adadfq+akt", "AKT as its code meant it"), ("ranges alone", "without AKT")):
        (shown,) = found.loc[found["arm"] == arm, f"− {pieces.PLAIN}"]
        said = re.search(rf"{says}: ([+-][\d.]+) ± ([\d.]+) points \(\d+ seeds\)", words)
        numbers = [*map(float, shown.split(" ± "))]
        assert [*map(float, said.groups())] == pytest.approx(numbers, abs=0.06)  # both rounded


def test_the_page_links_to_the_notebooks(site):
    page = (site / "explore.html").read_text()
    links = re.findall(r'href="(notebooks/[^"]+)"', page)
    stems = {path.stem for path in (ROOT / "notebooks").glob("[1-4]-*.ipynb")}
    assert {Path(link).stem for link in links} == stems


def test_without_notebooks_one_line_says_so(tmp_path):
    command = [sys.executable, str(ROOT / "site" / "build.py"), "--notebooks", str(tmp_path)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "html")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "make notebooks" in done.stderr
    assert len(done.stderr.splitlines()) == 1
