"""Second-order tools against dense float64 linear algebra on networks small enough for it."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from akt_lab.analysis import curvature, smooth
from akt_lab.errors import AktError, UsageError
from akt_lab.losses import kd_loss
from tests.analysis.conftest import IMAGES, LOGITS, RNG


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense_loss(network, temperature):
    """The loss as a function of the flat weights, its formula written out."""
    named = dict(network.named_parameters())
    sizes = [w.numel() for w in named.values()]

    def loss(vector):
        parts = zip(named.items(), vector.split(sizes), strict=True)
        s = functional_call(network, {n: v.view_as(w) for (n, w), v in parts}, (IMAGES,))
        log_q, log_p = (
            v.sub(v.logsumexp(1, True)) for v in (s / temperature, LOGITS / temperature)
        )
        log_p = log_p - log_p.logsumexp(1, True)
        return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()

    return loss


def dense_hessian(network, temperature=20.0):
    loss = dense_loss(network, temperature)
    return torch.autograd.functional.hessian(loss, flat(network.parameters()))


# ---- Hessians ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [2.0, 20.0])
def test_products_against_the_dense_hessian(net, temperature):
    dense = dense_hessian(net, temperature)
    operator = curvature.hessian(net, IMAGES, LOGITS, temperature)
    v = torch.randn(len(dense), 3, generator=RNG, dtype=torch.float64)
    assert operator.shape == dense.shape
    torch.testing.assert_close(operator @ v, dense @ v, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(operator @ v[:, 0], dense @ v[:, 0], rtol=1e-6, atol=1e-9)


def test_smooth_students_hessian(student):
    stand_in = smooth.smooth_student(student)
    dense = dense_hessian(stand_in)
    operator = curvature.hessian(stand_in, IMAGES, LOGITS)
    full = operator @ torch.eye(len(dense), dtype=torch.float64)
    torch.testing.assert_close(full, dense, rtol=1e-6, atol=1e-8 * dense.abs().max().item())
    assert (full - full.T).norm() < 1e-9 * full.norm()


def test_hessian_takes_frozen_and_channels_last_weights(net):
    v = torch.ones(sum(w.numel() for w in net.parameters()), dtype=torch.float64)
    expected = curvature.hessian(net, IMAGES, LOGITS) @ v
    other = copy.deepcopy(net).to(memory_format=torch.channels_last).requires_grad_(False)
    torch.testing.assert_close(curvature.hessian(other, IMAGES, LOGITS) @ v, expected)
    assert not any(w.requires_grad for w in other.parameters())


def test_a_rough_student_has_no_hessian(student):
    with pytest.raises(AktError, match="smooth_student first"):
        curvature.hessian(student, IMAGES, LOGITS)


def test_trace_of_a_diagonal_is_exact():
    estimate = curvature.trace(torch.diag(torch.tensor([1.0, -2.0, 5.0])), probes=4)
    assert estimate == (4.0, 0.0)
    with pytest.raises(UsageError, match="two probes or more, not 1"):
        curvature.trace(torch.eye(3), probes=1)


def test_a_weight_that_nothing_reads_or_that_bends_nothing_is_flat():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    operator = curvature.Hessian((a**2).sum() + b.sum(), [a, b, c])
    assert (operator @ torch.arange(1.0, 7)).tolist() == [2, 4, 0, 0, 0, 0]


def test_trace_within_three_standard_errors(net):
    dense = dense_hessian(net)
    operator = curvature.hessian(net, IMAGES, LOGITS)
    estimate = curvature.trace(operator, probes=128)
    assert abs(estimate.value - dense.trace().item()) < 3 * estimate.error
    spread = math.sqrt(2) * (dense - dense.diag().diag()).norm().item()  # of one probe
    assert estimate.error == pytest.approx(spread / math.sqrt(128), rel=0.25)
    few = curvature.trace(operator, probes=4)
    assert curvature.trace(operator, probes=4) == few != curvature.trace(operator, 4, seed=1)


def test_top_eigenvalues_against_numpy(net):
    expected = np.linalg.eigvalsh(dense_hessian(net).numpy())[::-1]
    values, residuals = curvature.top_eigenvalues(curvature.hessian(net, IMAGES, LOGITS), k=4)
    assert values == pytest.approx(expected[:4], rel=1e-6)
    assert (residuals < 1e-5 * expected[0]).all()
    assert expected[-1] < 0  # largest is not largest in size alone


# ---- asymmetry -----------------------------------------------------------------------------------


def test_gradients_are_symmetric(net, student):
    for network in (net, smooth.smooth_student(student)):
        estimate = curvature.asymmetry(network, IMAGES, LOGITS)
        assert estimate.value < 1e-5
        assert estimate.step_error < 1e-5


def test_the_straight_through_field_is_not(student):
    before = flat(student.parameters()).clone()
    estimate = curvature.asymmetry(student, IMAGES, LOGITS)
    assert estimate.value > 0.1
    assert estimate.step_error < 1e-4
    assert torch.equal(flat(student.parameters()), before)


def test_asymmetry_against_the_dense_jacobian(student):
    loss, point = dense_loss(student, 20.0), flat(student.parameters())
    scales = flat(w.square().mean().sqrt().expand_as(w) for w in student.parameters())

    def gradient(vector):
        vector = vector.clone().requires_grad_()
        return torch.autograd.grad(loss(vector), vector)[0]

    steps = 1e-8 * torch.diag(scales)
    columns = [(gradient(point + h) - gradient(point - h)) / 2e-8 for h in steps]
    jacobian = scales.unsqueeze(1) * torch.stack(columns, dim=1)
    expected = (jacobian - jacobian.T).norm() / (2 * jacobian.norm())
    estimate = curvature.asymmetry(student, IMAGES, LOGITS, pairs=100)
    assert estimate.value == pytest.approx(expected.item(), rel=0.2)
    assert abs(estimate.value - expected.item()) < 3 * estimate.error
    assert estimate.error < 0.1


def test_the_error_of_the_asymmetry_covers_other_pairs(student):
    few = [curvature.asymmetry(student, IMAGES, LOGITS, pairs=16, seed=s) for s in range(12)]
    spread = np.std([e.value for e in few], ddof=1)
    assert 0.4 < np.mean([e.error for e in few]) / spread < 2.5


# ---- loss surfaces -------------------------------------------------------------------------------


def test_directions_have_the_filters_lengths(net):
    first, second = curvature.filter_normalised_directions(net, seed=3)
    for name, weight in net.named_parameters():
        for direction in (first, second):
            if weight.ndim < 2:
                assert not direction[name].any()
            else:
                lengths = direction[name].flatten(1).norm(dim=1)
                torch.testing.assert_close(lengths, weight.detach().flatten(1).norm(dim=1))
        assert weight.ndim < 2 or not torch.equal(first[name], second[name])
    again, _ = curvature.filter_normalised_directions(net, seed=3)
    assert all(torch.equal(again[n], first[n]) for n in first)


def test_surface(net, student):
    directions = curvature.filter_normalised_directions(net)
    for network in (net, student):  # one pair of directions for both
        before = flat(network.parameters()).clone()
        offsets, losses = curvature.loss_surface(
            network, IMAGES, LOGITS, directions, radius=0.5, points=3
        )
        assert offsets.tolist() == [-0.5, 0.0, 0.5]
        assert losses.shape == (3, 3)
        assert losses[1, 1] == pytest.approx(kd_loss(network(IMAGES), LOGITS).item(), rel=1e-12)
        moved = before - 0.5 * flat(directions[0].values()) + 0.5 * flat(directions[1].values())
        assert losses[0, 2] == pytest.approx(dense_loss(network, 20.0)(moved).item(), rel=1e-9)
        assert len(set(losses.flatten().tolist())) == 9
        assert torch.equal(flat(network.parameters()), before)


def test_surface_refuses_other_networks_directions(net, functional_net):
    directions = curvature.filter_normalised_directions(functional_net)
    with pytest.raises(AktError, match="other parameters"):
        curvature.loss_surface(net, IMAGES, LOGITS, directions)
