"""The parts of a feature map's error and their cost, against dense float64 linear algebra."""

import copy

import numpy as np
import pytest
import torch

from akt_lab.analysis import curvature, error_cost
from akt_lab.errors import AktError, UsageError
from akt_lab.losses import kd_loss
from tests.analysis.conftest import IMAGES

RNG = torch.Generator().manual_seed(0)
MAP = torch.randn(2, 3, 4, 5, generator=RNG, dtype=torch.float64)
ERROR = torch.randn(2, 3, 4, 5, generator=RNG, dtype=torch.float64)


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
    parts, dims = error_cost.attention_parts(ERROR, x)
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
    parts, _ = error_cost.attention_parts(ERROR, x)
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
        again, _ = error_cost.attention_parts(parts[name], x)
        torch.testing.assert_close(again[name], parts[name])
    assert (parts["spatial"] * parts["channel"]).sum().abs() > 1e-3  # these two are not


def test_the_map_itself_is_in_both_spaces():
    parts, dims = error_cost.attention_parts(MAP, MAP)
    for name in ("spatial", "channel", "both"):
        torch.testing.assert_close(parts[name], MAP)
    assert dims["both"] == dims["spatial"] + dims["channel"] - len(MAP)


def test_parts_change_energies_as_they_should():
    parts, _ = error_cost.attention_parts(ERROR, MAP)
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
    table = error_cost.cost_of_error(net, "1", IMAGES, error)
    zero = torch.zeros_like(error)
    dense = torch.autograd.functional.hessian(lambda d: loss_with(net, 1, d), zero)
    dense = dense.reshape(error.numel(), -1)
    parts, dims = error_cost.attention_parts(error, net[:2](IMAGES))
    for name, part in parts.items():
        e = part.detach().flatten()
        assert table.loc[name, "cost"] == pytest.approx((0.5 * e @ dense @ e).item(), rel=1e-6)
        assert table.loc[name, "dims"] == dims[name]
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    last = error.contiguous(memory_format=torch.channels_last)
    wide = copy.deepcopy(net).to(memory_format=torch.channels_last)
    again = error_cost.cost_of_error(wide, "1", images, last)
    assert again.to_numpy() == pytest.approx(table.to_numpy(), rel=1e-9)
    h = 1e-4
    second = loss_with(net, 1, h * error).item() / h**2
    assert table.loc["all", "cost"] == pytest.approx(second, rel=1e-2)


def test_costs_add_up(net):
    _, x = error_cost.map_hessian(net, "1", IMAGES)
    error = error_cost.rounding_error(x, bits=3)
    table = error_cost.cost_of_error(net, "1", IMAGES, error)
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
    operator, x = error_cost.map_hessian(net, "1", IMAGES)
    trace = curvature.trace(operator, probes=64)
    rng = torch.Generator().manual_seed(5)
    errors = [torch.randn(x.shape, generator=rng, dtype=x.dtype) for _ in range(64)]
    costs = [0.5 * (e.flatten() @ (operator @ e.flatten())).item() for e in errors]
    assert np.mean(costs) == pytest.approx(trace.value / 2, rel=0.25)
    assert (operator @ torch.ones_like(x).flatten()).norm() > 0


def test_rounding_error_is_half_a_step_at_most():
    step = (MAP.max() - MAP.min()) / 7
    error = error_cost.rounding_error(MAP, bits=3)
    assert 0.4 * step < error.abs().max() <= step  # the zero point is rounded too
    assert error_cost.rounding_error(MAP, bits=8).norm() < 0.1 * error.norm()


def test_errors_must_fit(net):
    with pytest.raises(AktError, match=r"\(2, 3, 4, 5\) does not fit a map \(4, 3, 6, 6\)"):
        error_cost.cost_of_error(net, "1", IMAGES, ERROR)
    with pytest.raises(UsageError, match="unknown layer"):
        error_cost.cost_of_error(net, "nine", IMAGES, ERROR)
