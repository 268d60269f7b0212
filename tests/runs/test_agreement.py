from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from akt_lab.errors import AktError
from akt_lab.generator import Generator
from akt_lab.graph import capture_bn_inputs
from akt_lab.losses import zeroq_image_terms
from akt_lab.runs import agreement
from akt_lab.runs.agreement import common_kl, common_pool
from akt_lab.runs.networks import prepare
from akt_lab.runs.training import train
from akt_lab.settings import Settings
from tests.conftest import SMALL


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Few images in few steps, in a cache of the test's own."""
    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(agreement, "COMMON", 40)
    monkeypatch.setattr(agreement, "GENERATORS", 2)
    monkeypatch.setattr(agreement, "COMMON_STEPS", 40)
    return tmp_path / "pools"


def test_agreement_against_scipy():
    s, t = torch.randn(8, 3), torch.randn(8, 3)

    class Gives(nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = logits

        def forward(self, x):
            return self.logits

    images = torch.zeros(8, 1, 4, 4)
    found = common_kl(Gives(s), Gives(t), images)
    p, q = softmax(t.double().numpy(), axis=1), softmax(s.double().numpy(), axis=1)
    assert found == {
        "common_kl": pytest.approx(np.mean(entropy(p, q, axis=1)), rel=1e-5),
        "common_agreement": pytest.approx(100 * np.mean(p.argmax(1) == q.argmax(1))),
    }
    assert common_kl(Gives(t), Gives(t), images) == {"common_kl": 0, "common_agreement": 100}


def test_the_pool_is_what_the_teacher_knows(digits, few):
    images = common_pool(digits, progress=False)
    assert images.shape == (40, 1, 16, 16)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), capture_bn_inputs(digits.teacher) as before:
        digits.teacher(noise)
    with torch.no_grad(), capture_bn_inputs(digits.teacher) as after:
        t = digits.teacher(images)
    far, near = (zeroq_image_terms(t, None, None, each)["bns"] for each in (before, after))
    assert near < 0.5 * far


@pytest.mark.parametrize(("classes", "times"), [(3, {13, 14}), (10, {4}), (100, {0, 1})])
def test_classes_are_spread_evenly(digits, few, monkeypatch, classes, times):
    asked = []

    class Spy(Generator):
        def forward(self, z, y):
            if not self.training:
                asked.append(y)
            return super().forward(z, y)

    monkeypatch.setattr(agreement, "Generator", Spy)
    monkeypatch.setattr(agreement, "COMMON_STEPS", 1)
    head = nn.Sequential(digits.teacher, nn.Linear(10, classes)).eval()
    common_pool(replace(digits, teacher=head, classes=tuple(map(str, range(classes)))))
    counts = torch.cat(asked).bincount(minlength=classes)
    assert set(counts.tolist()) == times
    for part in torch.cat(asked).split(20):  # each generator makes of all
        assert part.diff().max() <= -(-classes // 20)


def test_made_once_whatever_the_runs(digits, few, monkeypatch, capsys):
    torch.manual_seed(1)
    first = common_pool(digits)
    assert "images: 100%" in capsys.readouterr().err
    prepare(digits, Settings(method="zeroq", pool=8, pool_steps=2, seed=3))
    monkeypatch.setattr("akt_lab.image_pool.optimise", None)  # a second making would fail
    torch.manual_seed(2)
    other = replace(digits, images=digits.images[:9], labels=digits.labels[:9])
    assert torch.equal(first, common_pool(other))
    assert capsys.readouterr().err == ""
    assert len(list(few.iterdir())) == 2  # and the run's own


def test_more_bits_are_closer(digits, few):
    images = common_pool(digits, progress=False)
    found = {}
    for bits in (2, 8):
        settings = Settings(method="ptq", weight_bits=bits, act_bits=bits, **SMALL)
        student = train(digits, settings, progress=False).student
        found[bits] = common_kl(student, digits.teacher, images)
    assert found[8]["common_kl"] < found[2]["common_kl"]
    assert found[8]["common_agreement"] > found[2]["common_agreement"]


def test_a_teacher_without_batch_norm_is_refused(digits, few):
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14**2, 10))
    with pytest.raises(AktError, match=r"no batch norm .*: images made from a teacher need one"):
        common_pool(replace(digits, teacher=plain.eval()), progress=False)
