"""What all explorers share: controls above, a picture below, and a sentence where one is due."""

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as w

from akt_lab.errors import AktError
from akt_lab.explorers.page_script import script
from akt_lab.explorers.picture import Shown

LABEL = "7em"  # width of a control's label


class Telling(w.VBox):
    """A box that tells its user, in a sentence, what goes wrong.

    Attributes:
        message: where it is seen and read aloud.
    """

    def __init__(self) -> None:
        """An empty box; see `arrange`."""
        self.message = w.HTML()
        super().__init__()

    def arrange(self, rows: Iterable[Sequence[Any]], below: Sequence[Any]) -> None:
        """Put rows of controls into it, the message, and what comes below."""
        layout = w.Layout(flex_flow="row wrap", align_items="center", grid_gap="2px 12px")
        boxes = [w.Box(list(row), layout=layout) for row in rows]
        self.children = [*boxes, self.message, *below, script()]

    def say(self, sentence: str) -> None:
        """Tell the user a sentence; an empty one clears it."""
        self.message.value = alert(sentence) if sentence else ""

    def attempt(self, action: Callable[[], None]) -> None:
        """Do what a control asks for; say so if it cannot be done."""
        try:
            action()
        except Exception as error:  # a callback's traceback would be seen by nobody
            self.message.value = alert(error)


class Explorer(Telling):
    """Controls, and what `show` makes of their values, again at every change.

    What goes wrong is said in the explorer, as a sentence; the last picture stays.

    Attributes:
        controls: by the names under which `show` takes their values.
        picture: below them.
    """

    def __init__(
        self,
        show: Callable[..., Shown],
        controls: Mapping[str, Any],
        rows: Sequence[Sequence[Any]],
        follow: Callable[[], None] | None = None,
    ) -> None:
        """Show the picture of the controls' first values.

        Args:
            show: takes the values of all controls by name.
            controls: what `show` depends on.
            rows: all widgets in the order in which Tab reaches them; controls and others.
            follow: adapts controls to others' values, before each picture; see `offer`.
        """
        self.show, self.controls, self.follow = show, dict(controls), follow
        self.picture, self._quiet = w.HTML(), False
        super().__init__()
        self.arrange(rows, [self.picture])
        for control in self.controls.values():
            control.observe(lambda _: self.refresh(), "value")
        self.refresh()

    def set(self, **values: Any) -> None:
        """Set several controls, and draw once."""
        with self._quietly():
            for name, value in values.items():
                self.controls[name].value = value
                self._adapt()  # the next value may be one that this one brings
        self.refresh()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def refresh(self) -> None:
        """Draw again."""
        if not self._quiet:
            self.attempt(self._draw)

    def _draw(self) -> None:
        self._adapt()
        picture = self.show(**self.values).to_html()
        self.say("")  # first: a new picture never stands below an old complaint
        self.picture.value = picture

    @property
    def values(self) -> dict[str, Any]:
        """The controls' values, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def _adapt(self) -> None:
        if self.follow:
            with self._quietly():
                self.follow()


def alert(about: str | Exception) -> str:
    """A sentence that stands out; of an error that is nobody's mistake but ours, with its type."""
    ours = isinstance(about, Exception) and not isinstance(about, AktError)
    sentence = f"this should not have happened ({type(about).__name__}: {about})" if ours else about
    style = "border-left:4px solid #d55e00;background:#fff4ec;color:#222;padding:4px 10px"
    return f'<div role="alert" style="{style}">{html.escape(str(sentence))}</div>'


# ---- controls ------------------------------------------------------------------------------------


def slider(label: str, options: Sequence[Any], value: Any, tip: str) -> w.SelectionSlider:
    """A slider over a few values; arrow keys move it."""
    return w.SelectionSlider(options=options, value=value, **_look(label, tip))


def menu(label: str, options: Sequence[Any], value: Any, tip: str) -> w.Dropdown:
    """A drop-down menu."""
    return w.Dropdown(options=options, value=value, **_look(label, tip))


def offer(control: Any, options: Sequence[Any], otherwise: Any) -> None:
    """Give a menu or slider other options; its value stays if it is among them.

    Where there is nothing to choose, it is disabled.
    """
    control.disabled = len(options) == 1
    if tuple(control.options) == tuple(options):
        return
    values = [o[1] if isinstance(o, tuple) else o for o in options]
    value = control.value if control.value in values else otherwise
    control.options = options
    control.value = value


def _look(label: str, tip: str, width: str = "23em") -> dict[str, Any]:
    return {
        "description": label,
        "tooltip": tip,
        "style": {"description_width": LABEL},
        "layout": w.Layout(width=width),
    }
