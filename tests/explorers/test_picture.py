"""A kept frame and its filling: the same pixels as a picture drawn whole, and drawn less often."""

import numpy as np
import pytest

from akt_lab.explorers import quantizer as playground
from akt_lab.explorers.picture import KEPT, Picture
from tests.explorers.conftest import pixels


def test_a_kept_frame_gives_the_picture_that_is_drawn_whole(digits):
    values = playground.layer_values(digits, "unit2.body.3", "weights")
    picture, drawn = playground.PICTURE, []
    for bits in (3, 2, 4):
        view = playground.look(values, bits, "ema", 10, 0.7, "clipped")
        figure = playground.draw(view)
        figure.canvas.draw()
        whole = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
        apart = np.abs(whole - pixels(picture.png(view)))
        assert (apart > 40).mean() < 0.01  # lines over ticks, where the frame's come first
        drawn.append(whole)
    assert (np.abs(drawn[0] - drawn[1]) > 40).mean() > 0.01  # and two views differ


def test_frames_are_drawn_once_and_few_are_kept(digits, monkeypatch):
    calls = []
    picture = Picture(
        (2, 1), lambda figure, view: calls.append(view), lambda figure, view: [], key=lambda v: v
    )
    for view in (1, 1, 2, 1, 2):
        picture.png(view)
    assert calls == [1, 2]
    for view in range(20):
        picture.png(view)
    assert len(picture._frames) == KEPT


def test_half_a_filling_is_not_kept():
    def fill(figure, view):
        yield figure.text(0.5, 0.5, f"{len(figure.texts)} before")
        if view == "broken":
            raise ZeroDivisionError

    picture = Picture((2, 1), lambda figure, view: None, fill, key=lambda view: 0)
    first = picture.png("whole")
    with pytest.raises(ZeroDivisionError):
        picture.png("broken")
    assert picture.png("whole") == first
