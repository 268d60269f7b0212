"""Second-order tools against dense float64 linear algebra on networks small enough for it."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from akt_lab.analysis import curvature, smooth
from akt_lab.analysis import error_cost as errorcost
from akt_lab.errors import AktError, UsageError
from akt_lab.losses import kd_loss
from akt_lab.quantizer import fake_quantize, freeze_ranges, quantize_model

RNG = torch.Generator().manual_seed(0)
IMAGES = torch.randn(4, 1, 6, 6, generator=RNG, dtype=torch.float64)
LOGITS = 3 * torch.randn(4, 5, generator=RNG, dtype=torch.float64)
MAP = torch.randn(2, 3, 4, 5, generator=RNG, dtype=torch.float64)
ERROR = torch.randn(2, 3, 4, 5, generator=RNG, dtype=torch.float64)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        net = nn.Sequential(*layers, nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten())
        return net.append(nn.Linear(16, 5)).double().eval()


@pytest.fixture(scope="module")
def student(net):
    student = quantize_model(net, 3, 3)
    student(IMAGES)
    freeze_ranges(student)
    return student


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


# ---- the smooth stand-in -------------------------------------------------------------------------


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


# ---- an error's parts ----------------------------------------------------------------------------


def energies(x):
    return x.square().mean(dim=1).flatten(1), x.square().mean(dim=(2, 3))


def dead(x):
    """With a dead channel, a dead place, and a channel that is alive at one place alone."""
    x = x.clone()
    x[0, 1], x[1, :, 2, 3], x[1, 0] = 0, 0, 0
    x[1, 0, 1, 1] = 2
    return x


@pytest.mark.parametrize("x", [MAP, dead(MAP)], ids=["alive", "dead"])
def test_parts_against_dense_projections(x):
    parts, dims = errorcost.attention_parts(ERROR, x)
    ranks = dict.fromkeys(("spatial", "channel", "both"), 0)
    for i, sample in enumerate(x):
        jacobians = torch.autograd.functional.jacobian(energies, sample.unsqueeze(0))
        spatial, channel = (j.flatten(0, 1).flatten(1).numpy() for j in jacobians)
        rows = {"spatial": spatial, "channel": channel, "both": np.vstack([spatial, channel])}
        e = ERROR[i].flatten().numpy()
        for name, matrix in rows.items():
            projected = np.linalg.pinv(matrix, rcond=1e-10) @ matrix @ e
            assert parts[name][i].flatten().numpy() == pytest.approx(projected, abs=1e-10)
            ranks[name] += np.linalg.matrix_rank(matrix, tol=1e-10)
    assert {n: dims[n] for n in ranks} == ranks
    assert dims["both"] + dims["rest"] == dims["all"] == x.numel()
    assert dims["channel"] + dims["spatial_alone"] == dims["both"]
    assert dims["spatial"] + dims["channel_alone"] == dims["both"]


@pytest.mark.parametrize("x", [MAP, dead(MAP)], ids=["alive", "dead"])
def test_parts_are_projections_that_add_up(x):
    parts, _ = errorcost.attention_parts(ERROR, x)
    sums = (
        ("both", "rest"),
        ("spatial", "channel_alone", "rest"),
        ("channel", "spatial_alone", "rest"),
    )
    for names in sums:
        torch.testing.assert_close(sum(parts[n] for n in names), ERROR)
        squares = sum(parts[n].square().sum() for n in names)  # orthogonal
        torch.testing.assert_close(squares, ERROR.square().sum())
    for name in ("spatial", "channel", "both", "rest"):
        again, _ = errorcost.attention_parts(parts[name], x)
        torch.testing.assert_close(again[name], parts[name])
    assert (parts["spatial"] * parts["channel"]).sum().abs() > 1e-3  # these two are not


def test_the_map_itself_is_in_both_spaces():
    parts, dims = errorcost.attention_parts(MAP, MAP)
    for name in ("spatial", "channel", "both"):
        torch.testing.assert_close(parts[name], MAP)
    assert dims["both"] == dims["spatial"] + dims["channel"] - len(MAP)


def test_parts_change_energies_as_they_should():
    parts, _ = errorcost.attention_parts(ERROR, MAP)
    h = 1e-6

    def change(part):
        ends = zip(energies(MAP + h * part), energies(MAP - h * part), strict=True)
        return [(a - b) / (2 * h) for a, b in ends]

    whole = change(ERROR)
    torch.testing.assert_close(change(parts["spatial"])[0], whole[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(change(parts["channel"])[1], whole[1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(change(parts["both"]), whole, rtol=1e-6, atol=1e-8)
    assert all(c.abs().max() < 1e-8 for c in change(parts["rest"]))
    assert all(c.abs().max() > 1e-2 for c in whole)
    assert change(parts["spatial_alone"])[1].abs().max() < 1e-8
    assert change(parts["channel_alone"])[0].abs().max() < 1e-8


# ---- what an error costs -------------------------------------------------------------------------


def loss_with(net, layer, error):
    """The loss with an error added to a layer's output, layer by layer."""
    x = IMAGES
    for i, module in enumerate(net):
        x = module(x) + error if i == layer else module(x.clone())
    return kd_loss(x, net(IMAGES))


def test_cost_against_the_dense_hessian_and_the_loss_itself(net):
    error = torch.randn(4, 3, 6, 6, generator=RNG, dtype=torch.float64)
    table = errorcost.cost_of_error(net, "1", IMAGES, error)
    zero = torch.zeros_like(error)
    dense = torch.autograd.functional.hessian(lambda d: loss_with(net, 1, d), zero)
    dense = dense.reshape(error.numel(), -1)
    parts, dims = errorcost.attention_parts(error, net[:2](IMAGES))
    for name, part in parts.items():
        e = part.detach().flatten()
        assert table.loc[name, "cost"] == pytest.approx((0.5 * e @ dense @ e).item(), rel=1e-6)
        assert table.loc[name, "dims"] == dims[name]
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    last = error.contiguous(memory_format=torch.channels_last)
    wide = copy.deepcopy(net).to(memory_format=torch.channels_last)
    again = errorcost.cost_of_error(wide, "1", images, last)
    assert again.to_numpy() == pytest.approx(table.to_numpy(), rel=1e-9)
    h = 1e-4
    second = loss_with(net, 1, h * error).item() / h**2
    assert table.loc["all", "cost"] == pytest.approx(second, rel=1e-2)


def test_costs_add_up(net):
    _, x = errorcost.map_hessian(net, "1", IMAGES)
    error = errorcost.rounding_error(x, bits=3)
    table = errorcost.cost_of_error(net, "1", IMAGES, error)
    whole = table.loc["all", "cost"]
    total = table["cost"] + table["cost_without"] + table["cross"]
    assert total.to_numpy() == pytest.approx(whole, rel=1e-9)
    assert table.loc["both", "cost_without"] == pytest.approx(table.loc["rest", "cost"])
    assert table.loc["both", "cross"] == pytest.approx(table.loc["rest", "cross"])
    assert table.loc["both", "share"] + table.loc["rest", "share"] == pytest.approx(1)
    assert table.loc["all", "square"] == pytest.approx(error.square().sum().item() / len(x))
    assert (table["cost"] > 0).all()
    assert (table["cost_per_square"] * table["square"]).to_numpy() == pytest.approx(
        table["cost"].to_numpy()
    )


def test_random_errors_cost_the_trace(net):
    operator, x = errorcost.map_hessian(net, "1", IMAGES)
    trace = curvature.trace(operator, probes=64)
    rng = torch.Generator().manual_seed(5)
    errors = [torch.randn(x.shape, generator=rng, dtype=x.dtype) for _ in range(64)]
    costs = [0.5 * (e.flatten() @ (operator @ e.flatten())).item() for e in errors]
    assert np.mean(costs) == pytest.approx(trace.value / 2, rel=0.25)
    assert (operator @ torch.ones_like(x).flatten()).norm() > 0


def test_rounding_error_is_half_a_step_at_most():
    step = (MAP.max() - MAP.min()) / 7
    error = errorcost.rounding_error(MAP, bits=3)
    assert 0.4 * step < error.abs().max() <= step  # the zero point is rounded too
    assert errorcost.rounding_error(MAP, bits=8).norm() < 0.1 * error.norm()


def test_errors_must_fit(net):
    with pytest.raises(AktError, match=r"\(2, 3, 4, 5\) does not fit a map \(4, 3, 6, 6\)"):
        errorcost.cost_of_error(net, "1", IMAGES, ERROR)
    with pytest.raises(UsageError, match="unknown layer"):
        errorcost.cost_of_error(net, "nine", IMAGES, ERROR)


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
