import operator
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from akt_lab.errors import AktError
from akt_lab.export import STORAGES, agreement, here, to_onnx
from akt_lab.export.runtimes import OpenVino
from akt_lab.quantizer import freeze_ranges, quantize_model


class Between(nn.Module):
    """An operation between two convolutions; it gives a map, or a vector."""

    def __init__(self, does, width=4):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.does = does
        self.last = nn.LazyLinear(5)

    def forward(self, x):
        return self.last(self.does(self.norm(self.first(x))).flatten(1))


def option_a(x):
    """The shortcut of CIFAR's ResNets: every second place, and channels of zeros."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))


def shuffled(x):
    b, c, h, w = x.size()
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


def halves(x):
    a, b = x.chunk(2, dim=1)
    return torch.cat([b, a * 2], 1)


OPERATIONS = {
    "relu": F.relu,
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": nn.Hardswish(),
    "hardsigmoid": F.hardsigmoid,
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"),
    "elu": nn.ELU(0.5),
    "celu": nn.CELU(0.5),
    "selu": nn.SELU(),
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(8),
    "prelu one": nn.PReLU(),
    "softplus": nn.Softplus(),
    "softsign": F.softsign,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp min": lambda x: x.clamp_min(0.1),
    "clip max": lambda x: torch.clip(x, max=0.2),
    "mask": lambda x: x * (x > 0),
    "abs": torch.abs,
    "neg": operator.neg,
    "square": torch.square,
    "exp": torch.exp,
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "pow": lambda x: x**2,
    "rsub": lambda x: 1 - x,
    "rdiv": lambda x: 1 / (x * x + 1),
    "alpha": lambda x: torch.add(x, x.relu(), alpha=0.5),
    "sub": lambda x: torch.sub(x, x.relu()),
    "max": lambda x: torch.maximum(x, x * 0.1),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max pool call": lambda x: F.max_pool2d(x, 2),
    "max pool dilated": nn.MaxPool2d(2, 1, 0, 2),
    "average pool": nn.AvgPool2d(3, 2, 1),
    "average without pads": nn.AvgPool2d(3, 2, 1, False, False),
    "rounded average": nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
    "rounded adaptive": nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d((4, 2))),
    "rounded whole": nn.Sequential(nn.ReLU(), nn.AvgPool2d(8, 1)),
    "rounded max": nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "adaptive": nn.AdaptiveAvgPool2d(2),
    "adaptive one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive max": nn.AdaptiveMaxPool2d((4, 1)),
    "mean": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x.mean(-1, keepdim=True),
    "amax": lambda x: x.amax((2, 3)),
    "sum": lambda x: x.sum(2),
    "option A": option_a,
    "shuffle": shuffled,
    "halves": halves,
    "shuffle layer": nn.ChannelShuffle(2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "swap": lambda x: x.transpose(-1, 1),
    "index": lambda x: x[:, 1],
    "corner": lambda x: x[..., -3:, 2],
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
    "split": lambda x: x.split([2, 6], 1)[1],
    "dropout": nn.Dropout(),
    "dropout call": lambda x: F.dropout(x, 0.5, False),
    "softmax": nn.Softmax(1),
    "log softmax": lambda x: F.log_softmax(x, -1),
    "zero pad": nn.ZeroPad2d((1, 2, 0, 1)),
    "reflection": nn.ReflectionPad2d(1),
    "replication": lambda x: F.pad(x, (1, 1, 2, 0), mode="replicate"),
    "same": nn.Conv2d(8, 4, 3, padding="same", dilation=2),
    "dilated": nn.Conv2d(8, 4, 3, dilation=2, groups=2),
    "rectangle": nn.Conv2d(8, 4, (3, 1), (2, 1), (1, 0)),
    "norm alone": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "constant": lambda x: x * torch.tensor(0.5),
    "flat linear": lambda x: x.flatten(2),
    "type": lambda x: x.float().to(torch.float32),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_form_computes_what_pytorch_does(name, agrees):
    torch.manual_seed(0)
    network = Between(OPERATIONS[name])
    images = torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        network(images)  # the last layer finds its size, and norms their statistics
    network.eval()
    assert agrees(network, images)[0].difference < 1e-5
    student = quantize_model(network, 3, 4)
    with torch.no_grad():
        student(images)
    freeze_ranges(student)
    agrees(student, images, storage="int4")


REFUSED = {
    "roll": (lambda x: x.roll(1, 2), r"roll: roll has no ONNX form here"),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), "interpolate: interpolate has no"),
    "group norm": (nn.GroupNorm(2, 8), r"does: groupnorm has no"),
    "ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), "ceil_mode"),
    "adaptive": (nn.AdaptiveAvgPool2d(3), r"does: adaptiveavgpool2d .* do not part into"),
    "over images": (lambda x: x - x.mean(0), "it goes over the images"),
    "softplus": (nn.Softplus(2), "another beta"),
    "joins images": (lambda x: torch.cat([x, x])[:2], "it joins the images"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), "a divisor of its own"),
    "backwards": (lambda x: x[:, torch.tensor([1, 0])], "an index that is neither"),
    "circular": (nn.Conv2d(8, 4, 3, 1, 1, padding_mode="circular"), "padding of mode circular"),
    "double": (lambda x: x.double().float(), "double has no ONNX form"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_by_name(name):
    torch.manual_seed(0)
    does, words = REFUSED[name]
    network, images = Between(does), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        network(images)
    with pytest.raises(AktError, match=words):
        to_onnx(network.eval(), (3, 8, 8))


# ---- networks that nobody thought of ----

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.SiLU, nn.Hardsigmoid, nn.Identity)


class Unit(nn.Module):
    """A convolution, perhaps with a norm, an activation, a skip."""

    def __init__(self, width, kind, stride, norm, bias, activation, skip):
        super().__init__()
        groups = {"plain": 1, "depthwise": width, "grouped": 2}[kind]
        self.conv = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.activation, self.skip = activation(), skip and stride == 1

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.activation(y + x if self.skip else y)


@st.composite
def networks(draw):
    width, of = 2 * draw(st.integers(1, 3)), st.sampled_from
    units = draw(
        st.lists(
            st.tuples(
                of(("plain", "depthwise", "grouped")),
                of((1, 2)),
                st.booleans(),
                st.booleans(),
                of(ACTIVATIONS),
                st.booleans(),
            ),
            max_size=3,
        )
    )
    layers = [nn.Conv2d(3, width, 3, bias=draw(st.booleans())), nn.ReLU()]
    layers += [Unit(width, *about) for about in units]
    if draw(st.booleans()):  # linear layers alone
        sizes = (192, width, 4)
        layers = [nn.Flatten(), nn.Linear(sizes[0], sizes[1]), draw(of(ACTIVATIONS))()]
    else:
        layers += [
            draw(of((nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(2, ceil_mode=True)))),
            nn.Flatten(),
        ]
    return [*layers, nn.LazyLinear(4, bias=draw(st.booleans()))]


class InFloat(OpenVino):
    """OpenVINO without its integers, with which (2026.4) a network with a skip came to zeros."""

    options: ClassVar = {**OpenVino.options, "LP_TRANSFORMS_MODE": "NO"}


@settings(max_examples=15, deadline=None)
@given(
    layers=networks(), bits=st.integers(2, 8), act_bits=st.integers(2, 8), seed=st.integers(0, 99),
    storage=st.sampled_from(STORAGES),
)  # fmt: skip
def test_random_networks_agree(layers, bits, act_bits, seed, storage):
    torch.manual_seed(seed)
    images = torch.randn(8, 3, 8, 8)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        network(images)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()  # those that were drawn know nothing of the seed
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_()  # negative scales, too
                module.bias.normal_()
    student = quantize_model(network.eval(), bits, act_bits)
    with torch.no_grad():
        logits = student(images)
    freeze_ranges(student)
    shape, labels = images.shape[1:], torch.zeros(8, dtype=torch.long)

    def compared(runtime):
        def written(**how):
            return runtime(to_onnx(student, shape, storage=storage, **how))

        return agreement(student, [(images, labels)], written(), lambda: written(rounded=True))

    for runtime in here():
        found = compared(runtime)
        if runtime is OpenVino and not found.good:  # as `akt-lab export` says of such a file, too
            found = compared(InFloat)
        assert found.good, (runtime.package, found, logits)
