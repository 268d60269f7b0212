"""The quantizer playground's numbers, against the quantizer itself."""

import numpy as np
import pytest
import torch

from akt_lab.errors import UsageError
from akt_lab.explorers import quantizer as playground
from akt_lab.quantizer import affine_parameters, fake_quantize


def test_playground_without_such_a_layer(digits):
    for kind in ("weights", "activations"):
        with pytest.raises(UsageError, match=r"unknown layer 'unit2\.body\.9': did you mean"):
            playground.layer_values(digits, "unit2.body.9", kind)


def test_activations_are_what_flows_into_the_layer(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")
    seen = []
    convolution = digits.teacher.get_submodule("unit2.body.3")
    keep = convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with keep, torch.no_grad():
        for x in playground._batches(digits):
            digits.teacher(x)
    extremes = [max(float(x.max()) for x in seen[: n + 1]) for n in range(20)]
    assert values.ranges["minmax"][:, 1].tolist() == pytest.approx(extremes)
    assert float(values.rows.min()) >= 0


def test_playground_by_numbers(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")
    view = playground.look(values, 3, "minmax", 20, 0.5, "identity")
    low, high = 0.5 * values.ranges["minmax"][-1]
    direct = fake_quantize(values.rows, *affine_parameters(low, high, 3), 3)
    assert np.array_equal(view.x_hat, direct.flatten().numpy())
    error = (direct - values.rows).square().mean() / values.rows.square().mean()
    assert view.error == pytest.approx(100 * error.item())
    assert view.errors[list(playground.CLIPS).index(0.5)] == pytest.approx(view.error)
    assert view.beyond == pytest.approx(100 * (values.rows > high).float().mean().item())
    assert 0 < view.used <= 3 < view.effective
    assert len(view.levels) == 8


def test_the_faulty_range_runs_away_and_live_ranges_cost_bits(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")

    def at(rule, seen=20):
        return playground.look(values, 3, rule, seen, 1.0, "identity")

    assert at("ema_legacy").error > 10 * at("ema").error
    assert at("ema_legacy", 1).error == pytest.approx(at("ema", 1).error)
    assert at("per_channel_dynamic").error < at("ema").error
    assert at("per_channel_dynamic").effective > 3.1 > at("ema").effective
    assert 0 < at("per_channel_dynamic").used <= 3  # of each row's own grid


def test_the_chosen_range_is_that_of_the_bits_and_needs_no_other_clip(digits):
    values = playground.layer_values(digits, "unit2.body.3", "activations")
    views = [playground.look(values, bits, "pnorm", 1, 1.0, "identity") for bits in (2, 4, 8)]
    assert all(view.error < 1.2 * view.errors.min() for view in views)  # squares, not p = 2.4
    beyond = [view.beyond for view in views]
    assert beyond[0] > beyond[2]
    assert beyond == sorted(beyond, reverse=True)
    assert playground.look(values, 2, "minmax", 20, 1.0, "identity").error > views[0].error
    assert "learned" not in playground.RULES  # needs a training


def test_where_the_gradient_gets_through(digits):
    values = playground.layer_values(digits, "unit2.body.3", "weights")
    open_, closed = (playground.look(values, 3, "ema", 1, 0.5, g) for g in ("identity", "clipped"))
    assert open_.passes == open_.span
    assert closed.passes[0] > closed.span[0]
    axis = torch.linspace(*closed.span, 4001, requires_grad=True)
    grid = affine_parameters(*0.5 * values.ranges["ema"][0], 3)
    fake_quantize(axis, *grid, 3, "clipped").sum().backward()
    through = axis.detach()[axis.grad == 1][[0, -1]].tolist()
    assert closed.passes == pytest.approx(through, abs=axis.diff()[0].item())
