"""What the notebooks of the course share: how a picture is shown, below it what was predicted."""

import base64
import html
import io

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from akt_lab.errors import AktError

DPI = 110
UNWRITTEN = "..."  # what stands in a cell for a prediction before somebody writes one

_predicted: list[str] = []  # one at most, until it is read back


def show(figure: Figure, alt: str, reading: str) -> None:
    """Show a figure in a notebook, with its alt text and a line that says how to read it.

    Args:
        figure: closed afterwards, so that none is left open.
        alt: what it shows, for those who do not see it.
        reading: one line below the picture.

    Raises:
        AktError: if either text is empty.
    """
    from IPython.display import display

    if not alt.strip() or not reading.strip():
        raise AktError("a figure of the course needs alt text and a line that says how to read it")
    display({"text/html": as_html(figure, alt, reading), "text/plain": alt}, raw=True)
    plt.close(figure)
    read_back()


def as_html(figure: Figure, alt: str, reading: str) -> str:
    """The figure as an <img> with its alt text, and the reading as its caption."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    image = f'<img src="{source}" alt="{html.escape(alt)}" style="max-width:100%;background:white">'
    caption = f"<figcaption><em>{html.escape(reading)}</em></figcaption>"
    return f'<figure style="margin:0">{image}{caption}</figure>'


def predict(words: str) -> None:
    """Keep what a student expects to see, for the next picture."""
    _predicted[:] = [words.strip()]


def read_back() -> None:
    """Show what was predicted since the last picture, below it; nothing where nothing was."""
    from IPython.display import display

    if _predicted and (words := _predicted.pop()) not in ("", UNWRITTEN):
        style = "border-left:4px solid #56b4e9;padding:.3em .8em;white-space:pre-wrap"
        said = f"You predicted: {words}"
        display(
            {"text/html": f'<div style="{style}">{html.escape(said)}</div>', "text/plain": said},
            raw=True,
        )
