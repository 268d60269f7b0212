from dataclasses import replace

import numpy as np
import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.export import Agreement, agreement, here, to_onnx
from akt_lab.export.check import refuse


class Altered:
    """A runtime whose outputs somebody has changed."""

    package = "altered"

    def __init__(self, file, change):
        self.file, self.change = file, change

    def run(self, images):
        return self.change(dict(self.file.run(images)))


@pytest.fixture(params=here())
def runtime(request):
    return request.param


@pytest.fixture
def images(digits):
    return digits.normalise(digits.images[:100])


def compare(student, images, file, shown=None):
    labels = torch.zeros(len(images), dtype=torch.long)
    return agreement(student, [(images, labels)], file, lambda: shown or file)


def test_counts_of_a_good_file(digits, images, student_of, runtime):
    student = student_of(digits.teacher, images, 3)
    file, done = runtime(to_onnx(student, images.shape[1:])), []
    labels = student(images).argmax(1)
    parts = zip(images.split(30), labels.split(30), strict=True)

    def never():
        raise AssertionError

    found = agreement(student, parts, file, never, done.append)
    assert found.good
    assert (found.images, found.apart, found.classes) == (100, 0, 0)
    assert found.accuracy == found.student_accuracy == 100
    assert done == [30, 30, 30, 10]


def test_a_wrong_file_is_not_good(digits, images, student_of, runtime):
    student = student_of(digits.teacher, images, 3)
    content = to_onnx(student, images.shape[1:], rounded=True)

    def nudged(outputs):
        outputs["logits"] = outputs["logits"] * np.float32(1.001)
        return outputs

    found = compare(student, images, Altered(runtime(content), nudged))
    assert found.apart == 100
    assert found.classes == 0
    assert not found.good
    with pytest.raises(AktError, match="not good, and was not written: in ours, 100 of 100 images"):
        refuse(found, "ours")
    other = student_of(digits.teacher, images * 1.5, 3)  # other scales
    found = compare(student, images, runtime(to_onnx(other, images.shape[1:], rounded=True)))
    assert found.apart > 50
    assert not found.good


def test_what_is_good():
    fine = Agreement(9, 0.1, 2, 0, 1, 0, 50.0, 50.0)
    assert fine.good
    refuse(fine, "any")
    with pytest.raises(AktError, match=r"and 0 another class: do this$"):
        refuse(replace(fine, apart=1), "any", ": do this")
    assert not replace(fine, apart=1).good
    assert not replace(fine, classes_apart=1).good
