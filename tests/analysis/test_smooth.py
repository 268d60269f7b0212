"""The smooth stand-in of a student: what it tends to, and that it has derivatives."""

import pytest
import torch

from akt_lab.analysis import curvature, smooth
from akt_lab.errors import AktError, UsageError
from akt_lab.quantizer import fake_quantize, quantize_model
from tests.analysis.conftest import IMAGES, LOGITS


def test_soft_round_lies_between_identity_and_rounding():
    x = torch.linspace(-2.9, 2.9, 59, dtype=torch.float64)  # no half among them
    x = x[(x % 1 - 0.5).abs() > 0.05]
    torch.testing.assert_close(smooth.soft_round(x, 0.0), x)
    errors = [(smooth.soft_round(x, k) - x.round()).abs().max().item() for k in (0, 0.5, 0.9, 0.99)]
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(smooth.soft_round(x, 1 - 1e-9), x.round(), rtol=0, atol=1e-7)


def test_soft_round_is_smooth_where_rounding_jumps():
    x = torch.tensor([-0.5, 0.0, 0.2, 0.5, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: smooth.soft_round(t, 0.7), x)
    assert torch.autograd.gradgradcheck(lambda t: smooth.soft_round(t, 0.7), x)
    (slope,) = torch.autograd.grad(smooth.soft_round(x, 0.7).sum(), x)
    kernel = (1 - 0.7**2) / (1 + 1.4 * torch.cos(2 * torch.pi * x) + 0.7**2)
    torch.testing.assert_close(slope, kernel.detach())


def test_soft_quantize_tends_to_fake_quantize():
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)  # the grid is -0.9 to 1.2
    grid = torch.tensor(0.3, dtype=torch.float64), torch.tensor(3, dtype=torch.int32), 3
    expected, found = fake_quantize(x, *grid), smooth.soft_quantize(x, *grid, 1 - 1e-9)
    near_a_step = ((x / 0.3) % 1 - 0.5).abs() < 0.01
    assert near_a_step.sum() < 10
    torch.testing.assert_close(found[~near_a_step], expected[~near_a_step], rtol=0, atol=1e-6)


@pytest.mark.parametrize("sharpness", [-0.1, 1.0])
def test_sharpness_is_checked(student, sharpness):
    with pytest.raises(UsageError, match="from 0 to below 1"):
        smooth.smooth_student(student, sharpness)


def test_smooth_student_tends_to_the_student(student):
    before = {n: t.clone() for n, t in student.state_dict().items()}
    expected = student(IMAGES)
    distances = [
        (smooth.smooth_student(student, k)(IMAGES) - expected).norm().item()
        for k in (0.0, 0.9, 1 - 1e-7)
    ]
    assert distances[2] < 1e-4 * expected.norm().item() < distances[1] < distances[0]
    stand_in = smooth.smooth_student(student)
    assert list(stand_in.state_dict()) == list(before)
    assert not smooth.is_rough(stand_in)
    assert smooth.is_rough(student)
    assert all(torch.equal(t, before[n]) for n, t in student.state_dict().items())


def test_ranges_must_be_frozen(net):
    moving, live = quantize_model(net), quantize_model(net, ranges="per_channel_dynamic")
    directions = curvature.filter_normalised_directions(moving)
    for student, message in ((moving, "freeze_ranges first"), (live, "live ranges")):
        with pytest.raises(AktError, match=message):
            smooth.smooth_student(student)
        with pytest.raises(AktError, match=message):
            curvature.asymmetry(student, IMAGES, LOGITS)
        with pytest.raises(AktError, match=message):
            curvature.loss_surface(student, IMAGES, LOGITS, directions)
