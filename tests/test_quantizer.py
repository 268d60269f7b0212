import copy
import importlib
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from akt_lab import quantizer
from akt_lab.errors import AktError, UsageError
from akt_lab.graph import residual_bodies, trace
from akt_lab.quantizer import (
    ActivationQuantizer,
    affine_parameters,
    effective_bits,
    fake_quantize,
    fake_quantize_rows,
    freeze_ranges,
    quantize_model,
)


def uses(student):
    return [m for m in student.modules() if isinstance(m, ActivationQuantizer)]


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


def test_works_under_torch_func():
    x = torch.randn(6)
    scale, zero = affine_parameters(x.min(), x.max(), 3)

    def loss(v):
        return (fake_quantize(v, scale, zero, 3) ** 2).sum()

    expected = 2 * fake_quantize(x, scale, zero, 3)
    assert torch.allclose(torch.func.grad(loss)(x), expected)
    _, tangent = torch.func.jvp(loss, (x,), (torch.ones(6),))
    assert tangent == pytest.approx(expected.sum().item(), rel=1e-5)


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


def test_frozen_ranges_do_not_move(functional_net):
    student = quantize_model(functional_net)
    with pytest.raises(AktError, match="observed no batch"):
        freeze_ranges(student)
    student(torch.randn(4, 3, 8, 8))
    freeze_ranges(student)
    before = [m.high.clone() for m in uses(student)]
    student(100 * torch.randn(4, 3, 8, 8))
    assert all(torch.equal(b, m.high) for b, m in zip(before, uses(student), strict=True))


@pytest.mark.parametrize(
    ("source", "name", "size", "activations", "layers", "bodies"),
    [
        ("torchvision.models", "resnet18", 64, 17, 21, 8),
        ("torchvision.models", "mobilenet_v2", 64, 35, 53, 10),
        ("pytorchcv.models.resnet_cifar", "resnet20_cifar10", 32, 19, 22, 9),
    ],
)
def test_known_networks(source, name, size, activations, layers, bodies):
    torch.manual_seed(0)
    teacher = getattr(importlib.import_module(source), name)().eval()
    x = torch.randn(8, 3, size, size)
    with torch.no_grad():
        for _ in range(20):  # settle the batch norms, or random weights let the signal vanish
            teacher.train()(x)
    teacher.eval()
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        assert torch.equal(trace(teacher)(x), teacher(x))
        student = quantize_model(teacher, weight_bits=8, act_bits=8)
        close, far = student(x), quantize_model(teacher, weight_bits=2, act_bits=2)(x)
    assert len(uses(student)) == activations
    assert sum(hasattr(m, "quantized_weight") for m in student.modules()) == layers
    assert len(residual_bodies(trace(teacher))) == bodies
    reach = teacher(x).detach().abs().max()
    assert 0 < (close - teacher(x)).abs().max() < 0.1 * reach
    assert (far - teacher(x)).abs().max() > (close - teacher(x)).abs().max()
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_every_use_of_an_activation_has_its_own_range(functional_net):
    student = quantize_model(functional_net)
    student(torch.randn(2, 3, 8, 8))
    assert len(uses(student)) == 5  # F.relu, the shared module twice, ReLU6, the method
    assert len({m.high.item() for m in uses(student)}) >= 4
    state = student.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in functional_net.state_dict().items())


@pytest.mark.parametrize("activation", [nn.Mish(), nn.Hardtanh(), nn.Sigmoid(), nn.Softplus()])
def test_less_common_activations_are_quantized_too(activation):
    student = quantize_model(nn.Sequential(nn.Conv2d(1, 4, 3), activation, nn.Conv2d(4, 2, 3)))
    assert len(uses(student)) == 1


def test_bits_by_layer_and_ends(functional_net):
    student = quantize_model(
        functional_net, {"grouped": 2, "*": 4}, {"relu6": 8, "*": 3}, first_bits=8, last_bits=6
    )
    bits = {n: m.weight_bits for n, m in student.named_modules() if hasattr(m, "weight_bits")}
    assert bits == {"first": 8, "depthwise": 4, "grouped": 2, "last": 6}
    assert sorted(m.bits for m in uses(student)) == [3, 3, 3, 3, 8]
    assert len(student.first.quantized_weight()[0].unique()) > 2**4
    assert all(len(row.unique()) <= 4 for row in student.grouped.quantized_weight())


@pytest.mark.parametrize("bits", [1, 9, 0, -3, 3.5, "3", True, None])
def test_bits_out_of_range(functional_net, bits):
    with pytest.raises(UsageError, match="2 to 8"):
        quantize_model(functional_net, weight_bits=bits)
    with pytest.raises(UsageError, match="2 to 8"):
        quantize_model(functional_net, act_bits=bits)


def test_what_cannot_be_quantized(functional_net):
    with pytest.raises(UsageError, match="unknown layer 'groupd': did you mean 'grouped'"):
        quantize_model(functional_net, {"groupd": 3, "*": 3})
    with pytest.raises(UsageError, match="no bits given for layer 'first'"):
        quantize_model(functional_net, {"grouped": 3})
    for choice in ({"ranges": "emma"}, {"gradient": "clip"}):
        with pytest.raises(UsageError, match=r"unknown .* rule"):
            quantize_model(functional_net, **choice)
    with pytest.raises(AktError, match="nothing to quantize"):
        quantize_model(nn.Sequential(nn.ReLU(), nn.Flatten()))
    with pytest.raises(AktError, match="ConvTranspose2d cannot be quantized"):
        quantize_model(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ConvTranspose2d(3, 3, 2)))

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(AktError, match=r"torch\.fx cannot trace Branching"):
        quantize_model(Branching())


class Beside(nn.Module):
    """A convolution, and beside it a part of its own or a weight w that `use` applies."""

    def __init__(self, use, part=None):
        super().__init__()
        self.conv, self.use, self.part = nn.Conv2d(1, 4, 1), use, part
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        h = self.conv(x).mean((2, 3))  # (B, 4)
        return self.use(h, self.w if self.part is None else self.part)


FUNCTIONS = {
    "x @ w": lambda x, w: x @ w,
    "w @ x": lambda x, w: (w @ x.t()).t(),
    "standardised": lambda x, w: x @ ((w - w.mean()) / w.std()).t(),
    "a vector": lambda x, w: x @ w[0],
    "mm": lambda x, w: x.mm(w),
    "addmm_": lambda x, w: x.addmm_(x, w),
    "bmm": lambda x, w: torch.bmm(x[:, None], w.expand(x.shape[0], -1, -1)),
    "baddbmm": lambda x, w: torch.baddbmm(x, x[:, None], w.expand(x.size(0), -1, -1)),
    "einsum": lambda x, w: torch.einsum("bi,ij->bj", x, w),
    "linear": lambda x, w: F.linear(x, w),
    "bilinear": lambda x, w: F.bilinear(x, x, w[None]),
    "conv1d": lambda x, w: F.conv1d(x[..., None], w[..., None]),
    "conv_transpose1d": lambda x, w: F.conv_transpose1d(x[..., None], w[..., None]),
    "conv_transpose3d": lambda x, w: F.conv_transpose3d(x[..., None, None], w[..., None, None]),
    "opaque": lambda x, w: opaque(x, w),
}

PARTS = [
    (nn.MultiheadAttention(4, 1), lambda x, part: part(x, x, x)[0]),
    (nn.TransformerEncoderLayer(4, 1, 8), lambda x, part: part(x)),
    (nn.GRUCell(4, 4), lambda x, part: part(x)),
    (nn.LSTMCell(4, 4), lambda x, part: part(x)[0]),
    (nn.GRU(4, 4), lambda x, part: part(x)[0]),
    (nn.Bilinear(4, 4, 4), lambda x, part: part(x, x)),
    (nn.LazyLinear(4), lambda x, part: part(x)),
    (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), lambda x, part: part(x)),
]


@torch.fx.wrap
def opaque(x, w):
    """As torchvision's shifted-window attention: torch.fx does not look inside."""
    return x @ w


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_weight_in_a_function_call_is_refused(name):
    with pytest.raises(AktError, match="make it a layer"):
        quantize_model(Beside(FUNCTIONS[name]))


@pytest.mark.parametrize(("part", "use"), PARTS, ids=lambda part: type(part).__name__)
def test_a_layer_with_a_matrix_in_float_is_refused(part, use):
    with pytest.raises(AktError, match=f"part: a {type(part).__name__} cannot be quantized"):
        quantize_model(Beside(use, part))


def test_what_stays_in_float_is_named(functional_net):
    assert quantizer.stays_in_float(quantize_model(functional_net)) == []
    rows = torch.arange(4)
    for use, part, names in (
        (lambda x, w: x * w.sum(0), None, ["w"]),
        (lambda x, w: x + F.embedding(rows, w).mean(0), None, ["w"]),
        (lambda x, part: x + part(rows).mean(0), nn.Embedding(4, 4), ["part.weight"]),
        (lambda x, part: part(x), nn.LayerNorm(4), []),
        (lambda x, part: (x @ x.t()).softmax(1) @ x, nn.Identity(), []),  # holds no weight
    ):
        assert quantizer.stays_in_float(quantize_model(Beside(use, part))) == names


def test_weights_learn_through_rounding(functional_net):
    student = quantize_model(functional_net)
    student(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, weight in student.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_rows_use_their_own_range():
    w = torch.tensor([[1.0, -0.5, 0.3], [100.0, -50.0, 30.0]])
    got = fake_quantize_rows(w, 3)
    assert torch.allclose(got[1], 100 * got[0], rtol=1e-5)
    assert math.isclose(got[0].max().item(), 1.0, abs_tol=1.5 / 7 / 2)


def test_effective_bits_count_the_ranges():
    """By hand: a channel of 3x3 weights of 3 bits and one range; 8x8 activations, one a sample."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU())
    images = torch.randn(5, 1, 8, 8)
    frozen, live = (
        quantize_model(net, 3, 3, ranges=ranges) for ranges in ("ema", "per_channel_dynamic")
    )
    assert effective_bits(frozen, images) == pytest.approx((3 + 35 / 9, 3.0))
    assert effective_bits(live, images) == pytest.approx((3 + 35 / 9, 3 + 35 / 64))
    for student in (frozen, live):  # each image takes the same
        assert effective_bits(student, images[:1]) == effective_bits(student, images)


def test_effective_bits_leave_no_hook(functional_net):
    student = quantize_model(functional_net)
    with pytest.raises(RuntimeError):
        effective_bits(student, torch.randn(1, 5, 8, 8))  # of three channels
    assert not any(module._forward_hooks for module in student.modules())


def test_importing_it_is_light():
    check = "import sys, akt_lab.quantizer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True, text=True)
    assert not {"pandas", "matplotlib", "scipy", "torchvision"} & set(done.stdout.split())


# ---- numbers of every kind ----

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


@pytest.mark.parametrize("gradient", quantizer.GRADIENTS)
def test_a_range_wider_than_its_type_is_refused(gradient):
    widest = torch.tensor([[-3e38, 3e38]])
    assert fake_quantize_rows(widest, 3, gradient).isnan().all()
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 2, 1))
    for value in (3e38, math.nan, math.inf):
        with torch.no_grad():
            net[2].weight.copy_(torch.tensor([-value, value]).view(2, 1, 1, 1))
        with pytest.raises(AktError, match=r"2\.weight holds a NaN, or values too large"):
            quantize_model(net)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)])
def test_nothing_gives_nothing(dtype, shape):
    x = torch.empty(shape, dtype=dtype)
    assert fake_quantize_rows(x, 3).shape == shape
    for rule in quantizer.RANGES:
        observer = ActivationQuantizer(3, rule)
        assert observer(x).shape == shape
        assert observer.updates == 0


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


def test_complex_weights_are_refused():
    with pytest.raises(AktError, match=r"0\.weight is complex"):
        quantize_model(nn.Sequential(nn.Conv2d(1, 2, 1, dtype=torch.complex64)))


def test_a_student_is_not_quantized_again(functional_net):
    with pytest.raises(AktError, match="student already: give its teacher"):
        quantize_model(quantize_model(functional_net))


def test_first_and_last_are_those_that_run():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.middle = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 4, 1)
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            self.middle(x[:, :1].expand(-1, 4, -1, -1))  # nothing reads it
            x = self.middle(self.stem(x).relu()).relu()
            return self.head(self.middle(x).relu()).mean((2, 3))

    student = quantize_model(HeadFirst(), 4, 4, first_bits=8, last_bits=6)
    bits = {n: m.weight_bits for n, m in student.named_modules() if hasattr(m, "weight_bits")}
    assert bits == {"stem": 8, "middle": 4, "head": 6}


# ---- ranges with the least error, and learned ones ----------------------------------------------


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


def chosen(net, ranges, bits=3, images=None, **options):
    student = quantize_model(net, bits, bits, ranges=ranges, **options)
    x = torch.rand(16, 3, 8, 8) * 3 - 1 if images is None else images
    student(x[:4])
    freeze_ranges(student, x)
    return student, x


@pytest.mark.parametrize("rule", quantizer.CHOSEN)
def test_each_use_chooses_on_what_reaches_it_rounded(functional_net, rule):
    student, x = chosen(functional_net, rule)
    came = {}
    for name, use in student.named_modules():
        if isinstance(use, ActivationQuantizer):
            use.register_forward_pre_hook(lambda _, i, name=name: came.update({name: i[0]}))
    student(x)  # now all are frozen: what reaches each is what reached it then
    for name, values in came.items():
        use = student.get_submodule(name)
        ends = quantizer.pnorm_range(*quantizer.histogram(values), use.bits)
        assert (use.low, use.high) == tuple(end[0] for end in ends), name
    before = [use.high.clone() for use in uses(student)]
    student(10 * x)
    assert before == [use.high for use in uses(student)]


def test_choosing_leaves_no_hook_and_can_be_done_again(functional_net):
    student, x = chosen(functional_net, "pnorm")
    before = [use.high.item() for use in uses(student)]
    freeze_ranges(student, 2 * x)
    assert all(a != use.high.item() for a, use in zip(before, uses(student), strict=True))
    assert not any(m._forward_pre_hooks for m in student.modules())


@pytest.mark.parametrize("rule", quantizer.CHOSEN)
def test_what_has_chosen_no_range_is_not_frozen(functional_net, rule):
    student = quantize_model(functional_net, ranges=rule)
    student(torch.rand(2, 3, 8, 8))
    with pytest.raises(AktError, match="give freeze_ranges images to choose by"):
        freeze_ranges(student)
    with pytest.raises(AktError, match="NaN"):
        freeze_ranges(student, torch.full((2, 3, 8, 8), math.nan))


@pytest.mark.parametrize("rule", quantizer.WEIGHT_RANGES)
def test_weight_ranges(functional_net, rule):
    weight = (
        functional_net.get_parameter("conv.weight") if hasattr(functional_net, "conv") else None
    )
    student, x = chosen(functional_net, "ema", 2, weight_ranges=rule)
    name = quantizer.quantized_layers(student)[0]
    layer = student.get_submodule(name)
    assert weight is None or weight.shape
    rows = layer.weight.detach().flatten(1)
    plain = fake_quantize_rows(layer.weight, 2)
    if rule == "minmax":
        assert torch.equal(layer.quantized_weight(), plain)
        return
    low, high = quantizer.pnorm_range(rows, None, 2)
    expected = fake_quantize(layer.weight, *affine_parameters(low, high, 2), 2)
    assert torch.equal(layer.quantized_weight(), expected)
    errors = [(q - layer.weight).abs().pow(quantizer.PNORM).sum() for q in (expected, plain)]
    assert errors[0] < errors[1]
    assert torch.isfinite(student(x)).all()


def test_learned_scales_are_parameters_beside_the_weights(functional_net):
    student, x = chosen(functional_net, "learned", weight_ranges="learned")
    scales = quantizer.learned_scales(student)
    assert len(scales) == len(uses(student)) + len(quantizer.quantized_layers(student))
    gradients = torch.autograd.grad(student(x).square().sum(), scales)
    assert all(g.isfinite().all() for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > len(gradients) / 2  # some uses see no error
    assert effective_bits(student, x) == effective_bits(chosen(functional_net, "ema")[0], x)
    with torch.no_grad():
        for scale in scales:
            scale.mul_(-1)  # never a grid that is upside down
    assert torch.isfinite(student(x)).all()
    assert quantizer.learned_scales(quantize_model(functional_net)) == []


@pytest.mark.parametrize("rule", quantizer.CHOSEN)
def test_a_chosen_range_survives_its_state(functional_net, rule):
    student, x = chosen(functional_net, rule, weight_ranges=rule)
    again = quantize_model(functional_net, ranges=rule, weight_ranges=rule)
    again.load_state_dict(student.state_dict())
    freeze_ranges(again)
    assert torch.equal(again(x), student(x))
