import io
import json

import pytest
import torch
from torch import nn

from akt_lab.errors import AktError
from akt_lab.export import TorchExport, agreement, to_pt2
from akt_lab.quantizer import ActivationQuantizer, freeze_ranges, quantize_model


@pytest.fixture
def images(digits):
    return digits.normalise(digits.images[:100])


@pytest.fixture
def teacher():
    """A small one of the digits' images."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)
    pooled = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    return nn.Sequential(*layers, nn.ReLU(), *pooled).eval()


MIXED = {"*": 3, "unit2.body.0": 2, "unit3.body.3": 5, "classifier": 8}


def test_any_number_of_images_and_what_goes_with_them(digits, images, student_of):
    student = student_of(digits.teacher, images, MIXED, 3)
    about = {"classes": json.dumps(digits.classes), "bench": "digits ü"}
    content = to_pt2(student, images.shape[1:], metadata=about)
    found = dict.fromkeys(about, "")
    program = torch.export.load(io.BytesIO(content), extra_files=found)
    assert found == about
    network = program.module()
    for count in (1, 5, 100):
        assert torch.allclose(network(images[:count]), student(images[:count]), atol=1e-4)
    calls = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert "aten.round_.default" in calls
    assert all(name.startswith(("aten.", "<built-in function getitem")) for name in calls)


@pytest.mark.parametrize("ranges", ["minmax", "pnorm", "learned"])
def test_static_rules_and_what_the_student_is_afterwards(teacher, images, student_of, ranges):
    weights = "learned" if ranges == "learned" else "minmax"
    student = student_of(teacher, images, 2, 3, ranges=ranges, weight_ranges=weights)
    code, before = student.code, {n: t.clone() for n, t in student.state_dict().items()}
    logits = TorchExport(to_pt2(student, images.shape[1:])).run(images.contiguous().numpy())
    assert torch.allclose(torch.from_numpy(logits["logits"]), student(images), atol=1e-4)
    to_pt2(student, images.shape[1:], rounded=True)
    assert student.code == code
    assert all(torch.equal(t, before[n]) for n, t in student.state_dict().items())


def test_rounded_activations(teacher, images, student_of):
    student = student_of(teacher, images)
    outputs = TorchExport(to_pt2(student, images.shape[1:], rounded=True)).run(images.numpy())
    quantizers = {n: m for n, m in student.named_modules() if isinstance(m, ActivationQuantizer)}
    assert set(outputs) == {"logits", *(f"rounded/{name}" for name in quantizers)}
    for name, quantizer in quantizers.items():
        codes = torch.from_numpy(outputs[f"rounded/{name}"]) / quantizer.grid()[0]
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert codes.max() > 1


def test_teachers_agree_and_other_students_do_not(teacher, images, student_of):
    batches = [(images, torch.zeros(100, dtype=torch.long))]

    def found(network, other):
        def file(rounded=True):
            return TorchExport(to_pt2(other, images.shape[1:], rounded=rounded))

        return agreement(network, batches, file(rounded=False), file)

    assert found(teacher, teacher).good
    student = student_of(teacher, images)
    assert found(student, student).good
    assert found(student, student_of(teacher, images * 1.5)).apart > 50


def test_refused(digits, images):
    shape = images.shape[1:]
    live = quantize_model(digits.teacher, ranges="per_channel_dynamic")
    with pytest.raises(AktError, match=r"live ranges \(GranQ\)"):
        to_pt2(live, shape)
    student = quantize_model(digits.teacher)
    with pytest.raises(AktError, match="observed no batch"):
        to_pt2(student, shape)

    class Pairs(nn.Sequential):
        def forward(self, x):
            return super().forward(x.reshape(2, 2, -1).flatten(0, 1))

    student = quantize_model(Pairs(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval())
    student(torch.randn(4, 4))
    freeze_ranges(student)
    with pytest.raises(AktError, match=r"torch.export cannot write this network \(.*\)$"):
        to_pt2(student, (4,))
