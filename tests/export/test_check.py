from dataclasses import replace

import numpy as np
import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.export import Agreement, agreement, here, to_onnx
from akt_lab.export.check import as_array, follows, refuse


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


def test_a_rounding_at_a_tie_is_no_mistake_and_any_other_is(digits, images, student_of, runtime):
    """A student that rounds one value the other way: allowed at a tie, and nowhere else."""
    student = student_of(digits.teacher, images, 3)
    name = "activation_quantizers.stem_2"
    quantizer = student.get_submodule(name)
    seen = []
    quantizer.register_forward_pre_hook(lambda module, x: seen.append(x[0].detach()))
    student(images)
    quantizer._forward_pre_hooks.clear()
    steps = seen[0] / quantizer.grid()[0]
    inside = (steps > 0.1) & (steps < 6.9)
    away = torch.where(inside, ((steps % 1) - 0.5).abs(), 1.0).flatten(1)
    nearest = away.min(1)  # of each image, its value nearest to a tie
    file = runtime(to_onnx(student, images.shape[1:], rounded=True))
    at_tie, elsewhere = nearest.values < 5e-4, nearest.values > 2e-3
    assert at_tie.any()

    def other_way(outputs):
        """Round that value to its other neighbour; what follows is then as the student computes."""
        x = torch.from_numpy(outputs[f"rounded/{name}"].copy())
        flat, at = x.flatten(1), nearest.indices[:, None]
        step = quantizer.grid()[0]
        value = steps.flatten(1).gather(1, at) * step
        held = flat.gather(1, at)
        flat.scatter_(1, at, held + step * torch.where(value > held, 1.0, -1.0))
        with_it = quantizer.register_forward_hook(lambda module, inputs, output: x)
        taken = {}
        others = [
            module.register_forward_hook(
                lambda module, inputs, output, key=key: taken.update({key: output.numpy()})
            )
            for key, module in student.named_modules()
            if key.startswith("activation_quantizers.")
        ]
        with torch.no_grad():
            outputs["logits"] = student(images).numpy()
        for handle in (with_it, *others):
            handle.remove()
        outputs |= {f"rounded/{key}": each for key, each in taken.items()}
        outputs[f"rounded/{name}"] = x.numpy()
        return outputs

    altered = Altered(file, other_way)
    logits = torch.from_numpy(altered.run(as_array(images))["logits"])
    allowed = follows(student, images, altered, logits)
    assert allowed[at_tie].all()
    assert not allowed[elsewhere].any()


def test_what_is_good():
    fine = Agreement(9, 0.1, 2, 0, 1, 0, 50.0, 50.0)
    assert fine.good
    refuse(fine, "any")
    assert not replace(fine, apart=1).good
    assert not replace(fine, classes_apart=1).good
