import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from akt_lab import quantizer
from akt_lab.errors import AktError, UsageError
from akt_lab.quantizer import (
    ActivationQuantizer,
    affine_parameters,
    fake_quantize,
    fake_quantize_rows,
    freeze_ranges,
)


def test_gradient_rules():
    x = torch.tensor([-2.0, -0.4, 0.3, 0.9, 5.0], requires_grad=True)
    scale, zero = affine_parameters(torch.tensor(-1.0), torch.tensor(1.0), 4)
    came = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    for rule, expected in (("identity", came), ("clipped", came * torch.tensor([0, 1, 1, 1, 0]))):
        (gradient,) = torch.autograd.grad(fake_quantize(x, scale, zero, 4, rule), x, came)
        assert torch.equal(gradient, expected), rule
        observer = ActivationQuantizer(4, "minmax", rule)
        observer.observe(torch.tensor([-1.0, 1.0]))
        observer.observing = False
        assert torch.equal(torch.autograd.grad(observer(x), x, came)[0], expected), rule
    with pytest.raises(UsageError, match="did you mean 'identity'"):
        fake_quantize(x, scale, zero, 4, "identiy")


@pytest.mark.parametrize(
    ("rule", "readings"),
    [
        ("ema", {1: 1.0, 2: 1.0, 20: 1.0, 100: 1.0}),
        ("ema_legacy", {1: 1.0, 2: 5.3, 20: 3903.7, 100: 3.6}),
        ("minmax", {1: 1.0, 2: 1.0, 20: 1.0, 100: 1.0}),
    ],
)
def test_a_constant_one_reads(rule, readings):
    observer = ActivationQuantizer(4, rule)
    for update in range(1, 101):
        observer(torch.ones(3, 2))
        if update in readings:
            assert observer.high.item() == pytest.approx(readings[update], abs=0.05), update
            if rule != "ema_legacy":
                assert observer.high.item() == 1.0


def test_ema_is_the_bias_corrected_average():
    observer, values = ActivationQuantizer(4, "ema"), [3.0, -1.0, 7.0, 2.0, 5.0]
    for value in values:
        observer.observe(torch.tensor([value, 0.0]))
    weights = [0.9 ** (len(values) - 1 - i) for i in range(len(values))]
    seen = [max(v, 0.0) for v in values]
    expected = sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights)
    assert observer.high.item() == pytest.approx(expected, rel=1e-5)


def test_minmax_keeps_the_extremes():
    observer = ActivationQuantizer(4, "minmax")
    for batch in ([2.0, 5.0], [3.0, 4.0], [1.0, 9.0]):
        observer(torch.tensor(batch))
    assert (observer.low.item(), observer.high.item()) == (1.0, 9.0)


def test_per_channel_dynamic_has_a_range_for_each_sample_and_channel():
    x = torch.randn(2, 3, 4, 4).relu() * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    got = ActivationQuantizer(3, "per_channel_dynamic")(x)
    for b in range(2):
        for c in range(3):
            one = x[b, c]
            expected = fake_quantize(one, *affine_parameters(one.min(), one.max(), 3), 3)
            assert torch.equal(got[b, c], expected)


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient", quantizer.GRADIENTS)
@given(
    seed=st.integers(0, 10**6),
    exponent=st.integers(-45, 37),
    shift=st.sampled_from([0.0, 1.0, -1.0, 100.0]),
    bits=st.integers(2, 8),
)
@settings(max_examples=30, deadline=None)
def test_every_type_and_size_of_numbers(dtype, gradient, seed, exponent, shift, bits):
    """Finite, few, of the type that came, half a step away at most: denormals to the largest."""
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = ((x + shift) * 10.0**exponent).clamp(-60000, 60000) if dtype.itemsize == 2 else x + shift
    x = (x if dtype.itemsize == 2 else x * 10.0**exponent).to(dtype).requires_grad_()
    quantizers = {rule: ActivationQuantizer(bits, rule, gradient) for rule in quantizer.RANGES}
    found = {"rows": fake_quantize_rows(x, bits, gradient)}
    found |= {rule: observer(x) for rule, observer in quantizers.items()}
    for rule, y in found.items():
        assert y.dtype == dtype
        assert y.isfinite().all(), rule
        assert all(len(row.unique()) <= 2**bits for row in y)
        (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert ((slope == 0) | (slope == 1)).all()
        step = (x.clamp(min=0).max() - x.clamp(max=0).min()).double() / (2**bits - 1)
        rounding = 2.0**bits * torch.finfo(torch.promote_types(dtype, torch.bfloat16)).eps
        if dtype == torch.bfloat16:
            rounding = 2.0**bits * torch.finfo(dtype).eps
        away = (y - x).abs().double().max()
        floor = torch.finfo(torch.float32).eps * 2**bits + torch.finfo(dtype).tiny
        assert away <= step * (1.01 + rounding) + floor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient", quantizer.GRADIENTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nan_or_an_infinity_never_becomes_a_number(dtype, gradient, bad):
    x = torch.tensor([[1.0, bad, 2.0], [0.5, -0.5, 1.0]], dtype=dtype)
    y = fake_quantize_rows(x, 3, gradient)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()  # another channel's range
    observer = ActivationQuantizer(3, "ema", gradient)
    assert observer(x).isnan().any()
    with pytest.raises(AktError, match="0 has observed a NaN"):
        freeze_ranges(nn.Sequential(observer))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)])
def test_nothing_gives_nothing(dtype, shape):
    x = torch.empty(shape, dtype=dtype)
    assert fake_quantize_rows(x, 3).shape == shape
    for rule in quantizer.RANGES:
        observer = ActivationQuantizer(3, rule)
        assert observer(x).shape == shape
        assert observer.updates == 0


NARROW_STUDENT = """
import torch
from torch import nn
from akt_lab.quantizer import quantize_model
for channels in (1, 3, 4, 7):
    net = nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU(), nn.Conv2d(channels, 8, 1, stride=2))
    student = quantize_model(net).to(memory_format=torch.channels_last)
    for _ in range(30):
        x = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)
        student(x).square().sum().backward()
print("the end")
"""


def test_a_narrow_strided_convolution_does_not_write_where_it_must_not():
    """In a process of its own: if it does, that ends by a signal."""
    done = subprocess.run([sys.executable, "-c", NARROW_STUDENT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the end\n"), done.stderr
