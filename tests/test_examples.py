"""Examples run as they stand there."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from akt_lab.export import to_onnx
from akt_lab.quantizer import freeze_ranges, quantize_model

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("number", range(3))
def test_an_image_is_classified_as_the_student_does(digits, tmp_path, monkeypatch, capsys, number):
    images = digits.normalise(digits.images)
    student = quantize_model(digits.teacher, 4, 4)
    with torch.no_grad():
        student(images[:64])
        freeze_ranges(student)
        expected = student(images[number : number + 1]).argmax().item()
    about = {name: json.dumps(getattr(digits, name)) for name in ("mean", "std", "classes")}
    (tmp_path / "student.onnx").write_bytes(to_onnx(student, images.shape[1:], metadata=about))
    Image.fromarray(digits.images[number, 0].numpy()).save(tmp_path / "image.png")
    files = [str(tmp_path / name) for name in ("student.onnx", "image.png")]
    monkeypatch.setattr(sys, "argv", ["classify.py", *files])
    runpy.run_path(str(EXAMPLES / "classify.py"))
    assert capsys.readouterr().out.strip() == digits.classes[expected]
