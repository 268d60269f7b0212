"""Names that users choose, of classes, runs, layers and benches, are text wherever they stand."""

import html
import json
import re
import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from akt_lab.analysis import tables
from akt_lab.analysis.studies import SideBySide, SyntheticImages
from akt_lab.explorers import attention_explorer, generator_explorer, gradient_explorer
from akt_lab.explorers import quantizer as playground
from akt_lab.explorers.app import _about
from akt_lab.explorers.explorer import alert
from akt_lab.figures import gallery, style
from akt_lab.figures.attention import draw_attention_side_by_side
from akt_lab.figures.images import draw_synthetic_images
from akt_lab.figures.labels import as_code
from akt_lab.figures.table import dots
from akt_lab.figures.training import curves
from akt_lab.runs.folder import Run
from akt_lab.runs.progress import Live
from akt_lab.runs.results import line_of
from tests.conftest import STRANGE, fake_run
from tests.explorers.conftest import runs  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
NAMES = (*STRANGE, "猫")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", NAMES)
def test_matplotlib_draws_it_as_it_is_written(name):
    figure, axes = plt.subplots()
    axes.set_title(f"class {style.plain(name)}, bench {style.plain(name)}")
    figure.canvas.draw()
    text = axes.title
    assert not text._preprocess_math(text.get_text())[1]  # no formula
    shown = text._preprocess_math(text.get_text())[0]
    assert "\n" not in shown
    assert " ".join(name.split())[:30] in shown


def test_figures_of_such_classes_and_benches(tmp_path):
    rng, count = np.random.default_rng(0), len(NAMES)
    images, two = rng.random((count, 2, 4, 4)), rng.random((2, count, 4, 4)) + 0.1
    channel = rng.random((2, count, 8)) + 0.1
    title = " ".join(STRANGE[:6])
    drawings = {
        "synthetic_images": draw_synthetic_images(
            SyntheticImages(images, NAMES, rng.random((count, 2)), title)
        ),
        "attention_side_by_side": draw_attention_side_by_side(
            SideBySide(images[:, 0], two, channel, rng.random((count, 2)), NAMES, title)
        ),
    }
    made = []
    for number, name in enumerate(NAMES):
        scores = [{"epoch": 2, "accuracy": 80.0, "synthetic_kl": 1.0}]
        run = fake_run(tmp_path / str(number), evaluations=scores)
        made.append(line_of(run) | {"bench": {"bench": None, "teacher": name}})
    file = tmp_path / "results.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in made))
    cells = tables.summarise(tables.load([file]))
    drawings |= {"table": dots(cells), "curves": curves(made)}
    for name, drawing in drawings.items():
        style.save(drawing, tmp_path / "figures", name, f"akt-lab figures {name}")
    gallery.write_page(tmp_path / "figures")
    page = (tmp_path / "figures" / "README.md").read_text()
    assert not re.findall(r"(?<!\\)<(?!img src=\"\w+\.png\" alt=\"[^\"<>]*\" width=\"760\">)", page)

    table = tables.to_markdown(cells).partition("\n\n")[0].splitlines()
    assert len(table) == 2 + len(NAMES)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in table} == {15}
    assert not re.findall(r"(?<!\\)[<$&`\[]", "".join(row.split("|")[1] for row in table))


def test_explorers_of_such_classes_and_runs(digits, runs, tmp_path):  # noqa: F811
    for number, name in enumerate(NAMES):
        folder = tmp_path / name.replace("/", "")[:200]
        run = Run(shutil.copytree(runs[number % 3].folder, folder))
        named = replace(digits, classes=(name, *digits.classes[1:]))
        for make in (attention_explorer, generator_explorer):
            explorer = make([runs[0], run], named)
            assert explorer.message.value == ""
            explorer.set(label=0)
            only_ours(explorer.picture.value, name)
            control = explorer.controls["label"]
            assert control.options[0] == (name, 0)
            assert control.description_allow_html is False
        only_ours(gradient_explorer([*runs, run]).picture.value, name)
        only_ours(alert(name), name)
        only_ours(_about([run], folder), name)
        view = playground.look(
            replace(playground.layer_values(digits, "stem.0", "weights"), name=name),
            bits=3, clip=1.0, rule="ema", seen=10, gradient="identity",
        )  # fmt: skip
        only_ours(playground.show(view).to_html(), name)


def only_ours(page, name):
    """No tag but ours is in it; a name stands there as text."""
    assert set(re.findall(r"</?(\w+)", page)) <= {"figure", "img", "figcaption", "div"}
    assert page.count("<img") <= 1
    if "<" in name:
        assert name not in page
    assert "onerror=" not in html.unescape(re.sub(r'"[^"]*"|>[^<]*<', "", page))


@pytest.mark.parametrize("name", NAMES)
def test_captions_and_progress(name, capsys):
    assert as_code(name).count("`") == 2
    assert "\n" not in as_code(name)
    with Live(total=1, ended=0, show=True) as live:
        event = {"run": name, "process": "", "epoch": 0, "done": 1, "total": 4, "note": ""}
        live.tell(event)
        live.end(name, ValueError(name))
    assert capsys.readouterr().err.startswith(f"1/1  {name}  did not end: ValueError: ")
