import copy
import shutil
from dataclasses import replace

import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.graph import capture_maps, residual_bodies
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student
from akt_lab.runs.training import train
from akt_lab.settings import Settings
from tests.conftest import SMALL


def test_a_loaded_student_keeps_the_maps_of_a_network_without_sums(digits, tmp_path):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10),
    ).eval()  # fmt: skip
    bench, run = replace(digits, teacher=plain), Run.create(tmp_path / "run")
    train(bench, Settings(method="adadfq", **SMALL), run, progress=False)
    student, _ = load_student(run, bench)
    with torch.inference_mode(), capture_maps(student, residual_bodies(student)) as maps:
        student(digits.normalise(digits.images[:4]))
    assert min(x.min().item() for x in maps.values()) < 0  # before the ReLU, not after it


def test_networks_are_loaded_beside_the_run_s_own_teacher_alone(digits, tmp_path):
    run, other = Run.create(tmp_path / "run"), copy.deepcopy(digits.teacher)
    train(digits, Settings(method="ptq", **SMALL), run, progress=False)
    fewer = replace(digits, images=digits.images[:9], labels=digits.labels[:9])
    load_student(run, fewer)  # to be judged on other images
    with torch.no_grad():
        next(other.parameters()).add_(1)
    for load in (load_student, load_generator):
        with pytest.raises(AktError, match=r"the teacher's weights are not those that .*run was"):
            load(run, replace(digits, teacher=other))
    with pytest.raises(AktError, match="the evaluation images are not those"):
        train(fewer, Settings(method="ptq", **SMALL), run, progress=False)
    older = {name: value for name, value in run.record.items() if name != "fingerprints"}
    (run / "record.json").unlink()
    run.update_record(**older)
    load_student(run, replace(digits, teacher=other))  # nobody knows


def test_images_that_are_gone_are_made_again_and_it_shows(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path))
    run = Run.create(tmp_path / "run")
    made = train(digits, Settings(method="hast", pool=8, pool_steps=2, **SMALL), run, False)
    load_generator(run, digits)
    assert "images" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "pools")
    assert torch.equal(load_generator(run, digits).images, made.generator.images)
    assert "images: 100%" in capsys.readouterr().err
