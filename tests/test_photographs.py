"""The main job on real photographs, where they lie beside the checkout."""

import json

import pytest

from akt_lab.commands import main
from akt_lab.runs.folder import Run

pytestmark = pytest.mark.slow


def test_quantize_and_evaluate_photographs(photographs, tmp_path, capsys):
    bench = ["--bench", "cifar10", "--weights", str(photographs / "resnet20_teacher.safetensors")]
    arguments = ["--method", "adadfq+akt", "--bits", "4", "--epochs", "3", "--steps", "10"]
    out = ["--out", str(tmp_path / "run"), "--eval-every", "3"]
    assert main(["quantize", *bench, "--data", str(photographs / "test"), *arguments, *out]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 10000
    assert result["teacher_accuracy"] == pytest.approx(86.82, abs=0.1)  # their README's
    assert 50 < result["student_accuracy"] <= result["teacher_accuracy"] + 1
    terms = Run(tmp_path / "run").history().iloc[-1]
    assert (terms.filter(like="student/") != 0).all()
