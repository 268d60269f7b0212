import pytest
import torch

from akt_lab.export import agreement, here, to_onnx
from akt_lab.quantizer import freeze_ranges, quantize_model


@pytest.fixture
def student_of():
    """A student whose ranges are those of some images."""

    def of(teacher, images, bits=3, act_bits=None, **how):
        student = quantize_model(teacher, bits, bits if act_bits is None else act_bits, **how)
        with torch.no_grad():
            student(images)
        freeze_ranges(student, images)
        return student.requires_grad_(False)

    return of


@pytest.fixture
def agrees():
    """Every runtime that is installed gives a network's logits; what was found there."""

    def of(network, images, **how):
        found = []
        labels = torch.zeros(len(images), dtype=torch.long)
        for runtime in here():
            file = runtime(to_onnx(network, images.shape[1:], **how))
            each = agreement(
                network,
                [(images, labels)],
                file,
                lambda: runtime(to_onnx(network, images.shape[1:], rounded=True, **how)),  # noqa: B023
            )
            assert each.good, (runtime, each)
            found.append(each)
        return found

    return of
