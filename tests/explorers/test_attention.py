"""The attention explorer's numbers, its jump to a layer, and students of one's own."""

import numpy as np
import pytest
import torch

from akt_lab.attention import attention_divergences
from akt_lab.errors import UsageError
from akt_lab.explorers import attention, attention_explorer
from akt_lab.explorers.students import ROUNDED, Students
from akt_lab.graph import capture_maps, residual_bodies, trace


def test_attention_by_numbers(digits, runs):
    teacher, student = trace(digits.teacher), Students(digits, runs).load("adadfq", 2)
    layers, x = residual_bodies(teacher), digits.normalise(digits.images[:1])
    view = attention.look(digits, teacher, student, x, layers[1])
    maps = []
    for network in (student, teacher):
        with torch.no_grad(), capture_maps(network, layers) as found:
            network(x)
        maps.append(list(found.values()))
    one = attention_divergences([maps[0][1]], [maps[1][1]])
    assert view.divergences[:, 1] == pytest.approx([v.item() for v in one])
    assert np.linalg.norm(view.spatial, axis=(1, 2)) == pytest.approx([1, 1], abs=1e-5)
    assert view.channel.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert view.most_different == view.divergences.sum(axis=0).argmax()
    assert view.says[0] == digits.classes[int(digits.teacher(x).argmax())]
    assert view.says[1] == digits.classes[int(student(x).argmax())]
    same = attention.look(digits, teacher, teacher, x, layers[1])
    assert np.abs(same.divergences).max() < 1e-6
    with pytest.raises(UsageError, match=r"unknown layer 'unit9'"):
        attention.look(digits, teacher, student, x, "unit9")


def test_a_jump_to_the_layer_that_disagrees_most(digits):
    explorer = attention_explorer(bench=digits)
    c = explorer.controls
    teacher, student = trace(digits.teacher), Students(digits, []).load(ROUNDED, 2)
    explorer.set(bits=2, layer=c["layer"].options[0])
    x = digits.normalise(digits.images[[int((digits.labels == 0).nonzero()[0])]])
    (jump,) = (w for row in explorer.children for w in getattr(row, "children", ())
               if w.description == "Most different layer")  # fmt: skip
    jump.click()
    worst = attention.look(digits, teacher, student, x, c["layer"].value).most_different
    assert c["layer"].options[worst] == c["layer"].value


def test_students_of_one_s_own(digits):
    own = {2: Students(digits, []).load(ROUNDED, 2), 8: Students(digits, []).load(ROUNDED, 8)}
    explorer = attention_explorer(bench=digits, students={"mine": own})
    assert explorer.controls["method"].options == ("mine",)
    assert explorer.controls["epoch"].disabled  # there is only the end
    assert explorer.controls["bits"].options == (2, 8)
    assert explorer.message.value == ""
