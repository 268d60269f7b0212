"""What the notebooks of the course share: how a picture is shown."""

import base64
import html
import io

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from akt_lab.errors import AktError

DPI = 110


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


def as_html(figure: Figure, alt: str, reading: str) -> str:
    """The figure as an <img> with its alt text, and the reading as its caption."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    image = f'<img src="{source}" alt="{html.escape(alt)}" style="max-width:100%;background:white">'
    caption = f"<figcaption><em>{html.escape(reading)}</em></figcaption>"
    return f'<figure style="margin:0">{image}{caption}</figure>'
