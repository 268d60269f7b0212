"""How the course shows a figure: with alt text and a reading, and none left open."""

import base64
import io
import re

import matplotlib.pyplot as plt
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from akt_course.show import DPI, as_html, predict, read_back, show
from akt_lab.errors import AktError


@pytest.fixture
def figure():
    made, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2])
    yield made
    plt.close(made)


def test_the_page_holds_the_picture_and_both_texts(figure):
    text = as_html(figure, 'a "line" < 2', "read <it> so")
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    width, height = Image.open(io.BytesIO(data)).size
    assert width == pytest.approx(3 * DPI, rel=0.2)  # its margins are cut
    assert height == pytest.approx(2 * DPI, rel=0.2)
    assert 'alt="a &quot;line&quot; &lt; 2"' in text
    assert "read &lt;it&gt; so</em></figcaption>" in text


def test_it_is_displayed_for_eyes_and_ears_and_closed(figure):
    InteractiveShell.instance()
    with capture_output() as shown:
        show(figure, "a line", "it rises")
    (output,) = shown.outputs
    assert output.data == {"text/html": as_html(figure, "a line", "it rises"),
                           "text/plain": "a line"}  # fmt: skip
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(("alt", "reading"), [("", "it rises"), ("a line", " \n")])
def test_a_figure_without_words_is_refused(figure, alt, reading):
    with pytest.raises(AktError, match="needs alt text"):
        show(figure, alt, reading)


def said(*does):
    with capture_output() as shown:
        for do in does:
            do()
    return [output.data["text/plain"] for output in shown.outputs]


def test_what_was_predicted_is_read_back_once_below_the_picture(figure):
    InteractiveShell.instance()
    picture = lambda: show(figure, "a line", "it rises")  # noqa: E731
    written = lambda: predict("\nit <falls>\n")  # noqa: E731
    assert said(written, picture, picture) == ["a line", "You predicted: it <falls>", "a line"]
    assert said(written, lambda: predict("\n...\n"), picture, read_back) == ["a line"]
