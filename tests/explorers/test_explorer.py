"""What all explorers share: controls that change the picture, and what is said if they fail."""

import re

import matplotlib.pyplot as plt
import pytest

from akt_lab.errors import AktError
from akt_lab.explorers import (
    attention_explorer,
    generator_explorer,
    gradient_explorer,
    quantizer_playground,
)
from akt_lab.explorers.explorer import alert
from akt_lab.explorers.students import ROUNDED, Students
from tests.explorers.conftest import screen


@pytest.fixture(params=["quantizer", "attention", "gradients", "generator"])
def explorer(request, digits, runs):
    made = {
        "quantizer": lambda: quantizer_playground(digits),
        "attention": lambda: attention_explorer(runs, digits),
        "gradients": lambda: gradient_explorer(runs),
        "generator": lambda: generator_explorer(runs, digits),
    }
    plt.close("all")  # what other tests left open
    return made[request.param]()


def test_each_control_has_a_label_and_changes_the_picture(explorer):
    silent = {"source", "file"}  # test_images_from_everywhere
    assert explorer.message.value == ""
    if "kind" in explorer.controls:
        explorer.controls["kind"].value = "activations"  # of a weight all batches are the same
    for name, control in explorer.controls.items():
        assert control.description
        assert control.tooltip
        if name in {"kind", *silent} or len(control.options) == 1:
            continue
        before, moved, first = screen(explorer), set(), control.index
        for index in range(min(4, len(control.options))):
            control.index = index
            assert explorer.message.value == ""
            moved.add(screen(explorer))
        assert len(moved | {before}) > 1, name
        control.index = first
    assert not plt.get_fignums()


def test_alt_text_and_reading_say_something(explorer):
    alt = re.search(r'alt="([^"]+)"', explorer.picture.value)[1]
    assert len(alt) > 60
    assert re.search(r"\d", alt)
    assert "<figcaption" in explorer.picture.value


def test_what_goes_wrong_is_said_and_the_picture_stays(explorer):
    before = screen(explorer)

    def broken(**_):
        raise ZeroDivisionError("by <nothing>")

    explorer.show = broken
    explorer.refresh()
    assert "ZeroDivisionError: by &lt;nothing&gt;" in explorer.message.value
    assert 'role="alert"' in explorer.message.value
    assert screen(explorer) == before


def test_a_complaint_is_taken_back_before_the_new_picture_comes(explorer):
    explorer.say("something went wrong")
    explorer.picture.value = ""
    seen = []
    explorer.picture.observe(lambda _: seen.append(explorer.message.value), "value")
    explorer.refresh()
    assert seen == [""]


def test_a_value_can_be_set_that_another_one_brings(digits):
    made = {bits: Students(digits, []).load(ROUNDED, bits) for bits in (2, 3, 5)}
    own = {"mine": {2: made[2], 3: made[3]}, "other": {5: made[5], 3: made[3]}}
    explorer = attention_explorer(bench=digits, students=own)
    show, drawn = explorer.show, []
    explorer.show = lambda **values: drawn.append(values) or show(**values)
    explorer.set(method="other", bits=5)
    assert [(values["method"], values["bits"]) for values in drawn] == [("other", 5)]
    explorer.controls["bits"].value = 3  # and each change is drawn again
    assert len(drawn) == 2


def test_an_alert_is_a_mistake_in_words_or_our_own_with_its_type():
    assert "this should not have happened" not in alert(AktError("delete <it>"))
    assert "delete &lt;it&gt;" in alert(AktError("delete <it>"))
    assert "this should not have happened (KeyError: &#x27;a&#x27;)" in alert(KeyError("a"))
