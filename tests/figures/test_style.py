import itertools
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from akt_lab.errors import AktError
from akt_lab.figures.method import method
from akt_lab.figures.style import Drawing, save, style_of
from akt_lab.losses import VARIANTS
from akt_lab.methods import METHODS
from akt_lab.settings import Settings


def test_no_figure_without_words(tmp_path):
    for alt, caption in (("", "c"), ("a", " ")):
        drawing = Drawing(plt.figure(), pd.DataFrame({"x": [1]}), alt, caption)
        with pytest.raises(AktError, match="needs alt text"):
            save(drawing, tmp_path, "x", "command")
        plt.close(drawing.figure)
    assert not list(tmp_path.iterdir())


def test_a_figure_is_saved_in_its_style(tmp_path):
    """At 160 dots an inch, and with the same bytes by every process."""
    save(method(), tmp_path / "here", "x", "command")
    code = (
        "import sys; from pathlib import Path; from akt_lab.figures.method import method\n"
        "from akt_lab.figures.style import save; save(method(), Path(sys.argv[1]), 'x', 'command')"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "there"], check=True)
    for ending in ("svg", "png", "csv", "json"):
        here, there = ((tmp_path / f / f"x.{ending}").read_bytes() for f in ("here", "there"))
        assert here == there, ending
    with Image.open(tmp_path / "here" / "x.png") as picture:
        assert picture.info["dpi"] == pytest.approx((160, 160), abs=0.1)


def test_every_label_has_a_style_of_its_own(monkeypatch):
    """Those of METHODS in every variant, and of methods that nobody knows yet."""
    for name, like in {"mine": "gdfq", "ours": "gdfq+akt", "yours": "adadfq"}.items():
        monkeypatch.setitem(METHODS, name, METHODS[like])
    labels = [m for m in METHODS if not METHODS[m].akt] + ["unknown"]
    akt = [m for m in METHODS if METHODS[m].akt]
    labels += [m if v == "paper" else f"{m} {v}" for m, v in itertools.product(akt, VARIANTS)]
    assert Settings(variant="code").label in labels
    looks = {label: tuple(map(str, style_of(label).values())) for label in labels}
    assert len(set(looks.values())) == len(labels)
    assert style_of("ours")["linestyle"] == "-" != style_of("mine")["linestyle"]  # it has AKT
    without_colour = {(style_of(m)["marker"], str(style_of(m)["linestyle"])) for m in METHODS}
    assert len(without_colour) == len(METHODS)
    monkeypatch.setitem(METHODS, "later", METHODS["adadfq"])
    assert looks == {label: tuple(map(str, style_of(label).values())) for label in labels}
    assert style_of("adadfq+akt paper") == style_of("adadfq+akt")


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "more"):
        with pytest.raises(AktError, match=r"^cannot write [^\n]*file"):
            save(method(), folder, "a", "a command")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for write in ("matplotlib.figure.Figure.savefig", "pandas.DataFrame.to_csv"):
        with monkeypatch.context() as patch:
            patch.setattr(write, full)
            with pytest.raises(AktError, match=r"^no space left to write "):
                save(method(), tmp_path / "out", "a", "a command")
