"""Pictures that follow a slider: the frame is drawn once, its contents at every move.

Nine tenths of the time that Matplotlib takes goes into ticks and labels, which stay where they are.
"""

import base64
import html
import io
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from akt_lab.figures.style import STYLE

DPI = 96
KEPT = 8  # frames, the latest used


@dataclass(frozen=True)
class Shown:
    """What an explorer shows: a picture, the text that stands in for it, and how to read it."""

    png: bytes
    alt: str
    reading: str

    def to_html(self) -> str:
        """A <figure>; its width and height are said, so that the page does not jump."""
        width, height = Image.open(io.BytesIO(self.png)).size
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        image = (
            f'<img src="{source}" alt="{html.escape(self.alt)}" width="{width}" height="{height}" '
            'style="max-width:100%;height:auto;background:white">'
        )
        caption = f'<figcaption style="line-height:1.4">{html.escape(self.reading)}</figcaption>'
        return f'<figure style="margin:0">{image}{caption}</figure>'


class Picture:
    """A drawing in two parts; neither figure nor canvas is known to pyplot, so none can leak.

    `draw` gives the whole as a figure. `png` gives the same, and keeps the frames that it drew.
    """

    def __init__(
        self,
        size: tuple[float, float],
        frame: Callable[[Figure, Any], None],
        fill: Callable[[Figure, Any], Iterable[Artist]],
        key: Callable[[Any], Hashable],
    ) -> None:
        """How to draw a view, whatever that is.

        Args:
            size: width and height in inches, of 96 dots.
            frame: puts axes, ticks and labels into an empty figure.
            fill: adds the contents to the figure's axes, and returns what it added.
            key: two views of one key have one frame.
        """
        self.size, self.frame, self.fill, self.key = size, frame, fill, key
        self._frames: dict[Hashable, tuple[Figure, Any]] = {}

    def draw(self, view: Any) -> Figure:
        """The whole picture, as a figure of its own."""
        with rc_context(STYLE):
            figure = self._framed(view)
            list(self.fill(figure, view))
        return figure

    def png(self, view: Any) -> bytes:
        """The whole picture, as it looks."""
        with rc_context(STYLE):
            figure, background = self._frame_of(view)
            canvas: Any = figure.canvas
            canvas.restore_region(background)
            try:
                added = list(self.fill(figure, view))
                for artist in sorted(added, key=Artist.get_zorder):
                    artist.draw(canvas.renderer)
                for artist in added:
                    artist.remove()
            except BaseException:  # half a filling is left in it
                del self._frames[self.key(view)]
                raise
        image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
        file = io.BytesIO()
        image.convert("RGB").save(file, "png", compress_level=1)
        return file.getvalue()

    def _framed(self, view: Any) -> Figure:
        figure = Figure(figsize=self.size, dpi=DPI)
        FigureCanvasAgg(figure)
        self.frame(figure, view)
        return figure

    def _frame_of(self, view: Any) -> tuple[Figure, Any]:
        key = self.key(view)
        kept = self._frames.pop(key, None)
        if kept is None:
            figure = self._framed(view)
            figure.canvas.draw()
            kept = figure, figure.canvas.copy_from_bbox(figure.bbox)  # type: ignore[attr-defined]
        self._frames[key] = kept
        for oldest in list(self._frames)[:-KEPT]:
            del self._frames[oldest]
        return kept
