import copy
import importlib
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
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
    layers,
    quantize_model,
)


def uses(student):
    return [m for m in student.modules() if isinstance(m, ActivationQuantizer)]


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
    student, x = chosen(functional_net, "ema", 2, weight_ranges=rule)
    name = quantizer.quantized_layers(student)[0]
    layer = student.get_submodule(name)
    rows = layer.weight.detach().flatten(1)
    plain = fake_quantize_rows(layer.weight, 2)
    if rule == "minmax":
        assert torch.equal(layer.quantized_weight(), plain)
        return
    low, high = quantizer.pnorm_range(rows, None, 2)
    expected = fake_quantize(layer.weight, *affine_parameters(low, high, 2), 2)
    assert torch.allclose(layer.quantized_weight(), expected)
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
            scale.sub_(3)  # however far a step goes, there is a grid, and a way back
    gradients = torch.autograd.grad(student(x).square().sum(), scales)
    assert sum(bool(g.any()) for g in gradients) > len(gradients) / 2
    quantizer.settle_scales(student)
    assert quantizer.learned_scales(student) == []
    assert [n for n, _ in student.named_parameters()] == [
        n for n, _ in functional_net.named_parameters()
    ]
    assert quantizer.learned_scales(quantize_model(functional_net)) == []


def test_weights_choose_once_when_ranges_are_frozen(functional_net, monkeypatch):
    """Not where a student is only built, to be looked at or filled from a file."""
    searched = []
    monkeypatch.setattr(layers, "pnorm_range", lambda r, *_: searched.append(r) or r.aminmax(dim=1))
    student = quantize_model(functional_net, ranges="per_channel_dynamic", weight_ranges="pnorm")
    assert not searched
    freeze_ranges(student)
    assert len(searched) == len(quantizer.quantized_layers(student))
    again = quantize_model(functional_net, ranges="per_channel_dynamic", weight_ranges="pnorm")
    again.load_state_dict(student.state_dict())
    freeze_ranges(again)  # as on --resume, when the weights have moved
    assert len(searched) == len(quantizer.quantized_layers(student))


@pytest.mark.parametrize("rule", quantizer.CHOSEN)
def test_a_chosen_range_survives_its_state(functional_net, rule):
    student, x = chosen(functional_net, rule, weight_ranges=rule)
    again = quantize_model(functional_net, ranges=rule, weight_ranges=rule)
    again.load_state_dict(student.state_dict())
    freeze_ranges(again)
    assert torch.equal(again(x), student(x))
