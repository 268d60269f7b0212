import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from akt_lab import quantizer
from akt_lab.quantizer import (
    affine_parameters,
    fake_quantize,
    fake_quantize_rows,
)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("gradient", quantizer.GRADIENTS)
@given(seed=st.integers(0, 10**6), shift=st.floats(-3, 3), spread=st.floats(0.01, 30))
@settings(max_examples=25, deadline=None)
def test_equals_torch_bit_for_bit(bits, gradient, seed, shift, spread):
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(seed)) * spread + shift
    clipped = x.clamp(-spread, spread)  # so that some values lie outside the range
    scale, zero = affine_parameters(clipped.min(), clipped.max(), bits)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    assert torch.equal(fake_quantize(x, scale, zero, bits, gradient), expected)
    low, high = clipped.flatten(1).aminmax(dim=1)
    scales, zeros = affine_parameters(low, high, bits)
    expected = torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, 0, 2**bits - 1)
    assert torch.equal(fake_quantize(x, scales, zeros, bits, gradient), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_scale_and_zero_point_by_hand(bits):
    low, high = torch.tensor([-1.0, 0.5, -3.0, 0.0]), torch.tensor([2.0, 4.0, -1.0, 0.0])
    scale, zero = affine_parameters(low, high, bits)
    levels = 2**bits - 1
    for i, (a, b) in enumerate([(-1, 2), (0, 4), (-3, 0)]):  # zero is always in the range
        assert scale[i].item() == pytest.approx((b - a) / levels, rel=1e-6)
        assert zero[i].item() == round(-a / ((b - a) / levels))
    assert scale[3] > 0
    assert zero[3] == 0


@given(bits=st.integers(2, 8), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_output_lies_on_the_grid(bits, seed):
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    scale, zero = affine_parameters(x.min(), x.max(), bits)
    x_hat = fake_quantize(x, scale, zero, bits)
    assert len(x_hat.unique()) <= 2**bits
    assert torch.equal(fake_quantize(x_hat, scale, zero, bits), x_hat)  # a round trip
    assert (x_hat - x).abs().max() <= scale * (0.5 + 1e-4) + scale  # plus the zero point's rounding
    assert fake_quantize(torch.zeros(3), scale, zero, bits).abs().max() == 0


def test_works_under_torch_func():
    x = torch.randn(6)
    scale, zero = affine_parameters(x.min(), x.max(), 3)

    def loss(v):
        return (fake_quantize(v, scale, zero, 3) ** 2).sum()

    expected = 2 * fake_quantize(x, scale, zero, 3)
    assert torch.allclose(torch.func.grad(loss)(x), expected)
    _, tangent = torch.func.jvp(loss, (x,), (torch.ones(6),))
    assert tangent == pytest.approx(expected.sum().item(), rel=1e-5)


def test_rows_use_their_own_range():
    w = torch.tensor([[1.0, -0.5, 0.3], [100.0, -50.0, 30.0]])
    got = fake_quantize_rows(w, 3)
    assert torch.allclose(got[1], 100 * got[0], rtol=1e-5)
    assert math.isclose(got[0].max().item(), 1.0, abs_tol=1.5 / 7 / 2)


def test_half_precision_is_rounded_as_float32_is():
    x = torch.randn(4, 50).half()
    expected = fake_quantize_rows(x.float(), 8)
    assert torch.equal(fake_quantize_rows(x, 8), expected.half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_clipped_gradients_of_other_types(dtype):
    x = torch.tensor([-2.0, -0.4, 0.3, 0.9, 5.0], dtype=dtype, requires_grad=True)
    scale, zero = affine_parameters(*torch.tensor([-1.0, 1.0], dtype=dtype), 4)
    y = fake_quantize(x, scale, zero, 4, "clipped")
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.tolist() == [0, 1, 1, 1, 0]


def p_errors(x, low, high, bits, p=quantizer.PNORM):
    """Of the values x (N,) on each of the grids that span [low, high], (R,)."""
    rows = x.expand(len(low), -1)
    return (
        (fake_quantize(rows, *affine_parameters(low, high, bits), bits) - rows).abs().pow(p).sum(1)
    )


SHAPES = {
    "relu": lambda x: x.relu(),
    "normal": lambda x: x,
    "long tail": lambda x: x**3,
    "lopsided": lambda x: (x + 1).clamp(-0.4) ** 3,
    "below zero": lambda x: -x.abs(),
    "an outlier": lambda x: torch.cat([x.relu(), x.new_tensor([40.0])]),
}


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
@settings(max_examples=3, deadline=None)
def test_pnorm_range_against_an_exhaustive_search(shape, bits, seed, scale):
    x = SHAPES[shape](torch.randn(600, generator=torch.Generator().manual_seed(seed))) * scale
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    shares = torch.linspace(0.04, 1, 25)
    ends = torch.cartesian_prod(
        low * (shares if low else shares[-1:]), high * (shares if high else shares[-1:])
    )
    errors = p_errors(x, *ends.T, bits)
    for values in ((x[None], None), quantizer.histogram(x)):
        found = p_errors(x, *quantizer.pnorm_range(*values, bits), bits)
        assert found <= 1.02 * errors.min()
        assert found <= 1.01 * errors[-1]  # of the whole range; a histogram is not quite its values


def test_pnorm_ranges_are_one_a_row():
    x = torch.randn(5, 400) * torch.tensor([1.0, 10.0, 0.1, 3.0, 0.0])[:, None]
    together = quantizer.pnorm_range(x, None, 3)
    for number, row in enumerate(x):
        alone = quantizer.pnorm_range(row[None], None, 3)
        assert [end[number] for end in together] == [end[0] for end in alone]
    assert together[0][4] == together[1][4] == 0


def test_the_norm_decides_how_much_is_clipped():
    x = torch.randn(1, 5000) ** 3
    _, narrow = quantizer.pnorm_range(x, None, 3, p=1)
    _, wide = quantizer.pnorm_range(x, None, 3, p=20)
    assert 0 < narrow < wide <= x.max()


def test_a_histogram_stands_for_its_values():
    x = torch.randn(3, 7, 11)
    means, counts = quantizer.histogram(x)
    assert means.shape == counts.shape == (1, quantizer.BINS)
    assert counts.sum() == x.numel()
    assert (means * counts).sum().item() == pytest.approx(x.sum().item(), rel=1e-4, abs=1e-4)
    assert quantizer.histogram(torch.full((9,), 2.5))[0].max() == 2.5


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("rows", [False, True])
@given(seed=st.integers(0, 10**6), width=st.floats(0.1, 1.2))
@settings(max_examples=10, deadline=None)
def test_learned_scales_have_lsq_s_gradient(bits, rows, seed, width):
    """Equations 3 and 5 of LSQ, value by value."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    came = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    values = x.float()
    ends = values.aminmax(dim=1) if rows else (values.min(), values.max())
    scale, zero = affine_parameters(*(width * end for end in ends), bits)
    levels = 2**bits - 1
    for gradient in quantizer.GRADIENTS:
        leaf, s = values.clone().requires_grad_(), scale.clone().requires_grad_()
        x_hat = quantizer.fake_quantize_learned(leaf, s, zero, bits, gradient)
        assert torch.equal(x_hat, fake_quantize(values, scale, zero, bits))
        at_x, at_scale = torch.autograd.grad(x_hat, (leaf, s), came.float())
        expected = torch.zeros(scale.shape, dtype=torch.float64).reshape(-1)
        for i in range(4):
            for j in range(6):
                place = i if rows else 0
                step, z = scale.reshape(-1)[place].item(), zero.reshape(-1)[place].item()
                v = x[i, j].item() / step
                if v < -z:
                    slope = -z
                elif v > levels - z:
                    slope = levels - z
                else:
                    slope = round(v) - v
                inside = -z <= v <= levels - z
                assert at_x[i, j] == (came[i, j].float() if inside or gradient == "identity" else 0)
                expected[place] += slope * came[i, j]
        expected /= math.sqrt(6 * levels)
        assert torch.allclose(at_scale.reshape(-1).double(), expected, rtol=1e-3, atol=1e-4)
