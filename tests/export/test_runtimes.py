import sys

import numpy as np
import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.export import OnnxRuntime, OpenVino, here, medians, to_onnx
from akt_lab.export.runtimes import weighted


@pytest.fixture
def images(digits):
    return digits.normalise(digits.images[:8])


def test_layers_by_their_names(digits, images, student_of):
    student = student_of(digits.teacher, images)
    content = to_onnx(student, images.shape[1:])
    names = [
        n
        for n, m in digits.teacher.named_modules()
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    assert sorted(set(weighted(content).values())) == sorted(names)
    for runtime in here():
        found = runtime(content).layers(images.contiguous().numpy())
        assert sorted(found) == sorted(names)
        assert not found["stem.0"]  # the images are not whole numbers
        in_float = runtime(to_onnx(digits.teacher, images.shape[1:])).layers(
            images.contiguous().numpy()
        )
        assert not any(in_float.values())


def test_openvino_runs_every_layer_behind_a_rounding_in_integers(digits, images, student_of):
    if OpenVino not in here():
        pytest.skip("openvino has no wheel here")
    student = student_of(digits.teacher, images)
    file = OpenVino(to_onnx(student, images.shape[1:]))
    found = file.layers(images.contiguous().numpy())
    assert [name for name, whole in found.items() if not whole] == ["stem.0", "classifier"]


def test_all_outputs_by_name(digits, images, student_of):
    student = student_of(digits.teacher, images)
    content = to_onnx(student, images.shape[1:], rounded=True)
    for runtime in here():
        found = runtime(content).run(images.contiguous().numpy())
        names = {n for n in found if n.startswith("rounded/")}
        assert len(names) == 7
        assert found["logits"].shape == (8, 10)


def test_medians_come_in_turns():
    order = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def run(self, images):
            order.append(self.name)

    found = medians({"one": Fake("a"), "two": Fake("b")}, np.zeros(1), seconds=0)
    assert order[6:] == ["a", "b"] * 5
    assert set(found) == {"one", "two"}
    assert min(found.values()) >= 0


def test_one_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AktError, match=r"onnxruntime is not installed: pip install"):
        OnnxRuntime(b"")
    monkeypatch.setattr(OnnxRuntime, "package", "surely-not-there")
    assert OnnxRuntime.installed() is None
    assert OnnxRuntime not in here()
