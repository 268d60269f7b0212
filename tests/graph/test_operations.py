"""Where activations end, however they are spelt, and what reaches a layer unrounded."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akt_lab.graph import activations, from_images, operation, trace, unrounded
from akt_lab.quantizer import (
    activations_in_float,
    freeze_ranges,
    quantize_model,
    quantized_activations,
)

BITS = 3


class Active(nn.Module):
    """An activation between two convolutions, and before the head."""

    def __init__(self, act, channels=8):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(channels, 8, 3)
        self.head, self.act = nn.Linear(channels, 4), act
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.second(self.act(self.first(x)))
        return self.head(self.act(x).mean((2, 3)))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class OwnReLU(nn.ReLU):
    """A subclass that adds nothing to it."""


class Mish(nn.Module):
    def forward(self, x):
        return x.mul_(F.softplus(x).tanh())


SPELT = {  # and the node at which it ends
    "F.relu(x)": (F.relu, "relu"),
    "relu6": (lambda x: F.hardtanh_(x, 0, 6), "hardtanh_"),
    "leaky, in place": (lambda x: F.leaky_relu_(x, 0.1), "leaky_relu_"),
    "clamp": (lambda x: x.clamp(min=0), "clamp"),
    "clamp, in place": (lambda x: x.clamp_(0, 6), "clamp_"),
    "clip": (lambda x: torch.clip(x, 0, 6), "clip"),
    "threshold": (nn.Threshold(0, 0), "act"),
    "F.threshold": (lambda x: F.threshold(x, 0.1, 0), "_threshold"),
    "maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)), "maximum"),
    "max": (lambda x: torch.max(0.1 * x, x), "max_1"),
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), "where"),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), "masked_fill"),
    "times its sign": (lambda x: x * (x > 0), "mul"),
    "absolute": (lambda x: (x + x.abs()) / 2, "add"),
    "prelu": (lambda x: F.relu(x) - 0.25 * F.relu(-x), "sub"),
    "elu": (lambda x: torch.where(x > 0, x, x.exp() - 1), "where"),
    "Swish": (Swish(), "mul"),
    "a subclass": (OwnReLU(), "act"),
    "Mish": (Mish(), "mul_"),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), "mul_1"),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "mul_1"),
    "gelu by tanh": (lambda x: 0.5 * x * (1 + (x + 0.04 * x**3).tanh()), "mul_2"),
    "hard swish": (lambda x: x * F.relu6(x + 3) / 6, "mul"),
    "hard swish, clamped": (lambda x: x * ((x + 3).clamp(0, 6) / 6), "mul"),
    "logsigmoid": (F.logsigmoid, "log_sigmoid"),
    "softsign": (F.softsign, "softsign"),
    "softsign by hand": (lambda x: x / (1 + x.abs()), "truediv"),
    "hardshrink": (nn.Hardshrink(0.1), "act"),
    "sigmoid by hand": (lambda x: 1 / (1 + torch.exp(-x)), "truediv"),
    "squared relu": (lambda x: F.relu(x) ** 2, "pow_1"),
    "square": (lambda x: x * x, "mul"),
    "sine": (torch.sin, "sin"),
    "scaled afterwards": (lambda x: F.dropout(F.relu(x), 0.5, False) * 2 + 1, "relu"),
}


@pytest.mark.parametrize("name", SPELT)
def test_an_activation_is_rounded_once_at_its_end(name):
    act, end = SPELT[name]
    torch.manual_seed(0)
    net, x = Active(act).eval(), torch.randn(4, 3, 12, 12)
    assert activations(trace(net))[0].name == end
    assert torch.allclose(trace(net)(x), net(x), atol=1e-5)
    student = quantize_model(net, BITS, BITS)
    student(x)
    freeze_ranges(student)
    assert len(quantized_activations(student)) == 2
    assert activations_in_float(student) == []
    seen = []
    student.second.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    student(x)
    assert 2 < len(seen[0].unique()) <= 2**BITS


def test_a_gated_half_is_rounded_too():
    student = quantize_model(Active(nn.GLU(1), channels=4), BITS, BITS)
    assert quantized_activations(student) == ["act", "act_1"]


def gated(x):
    return F.relu(x) * F.adaptive_avg_pool2d(F.relu(x), 1).sigmoid()


def maxout(x):
    a, b = x.chunk(2, 1)
    return torch.maximum(a, b).repeat(1, 2, 1, 1)


NAMED = {  # and the node that is named, before the second layer
    "softmax": (lambda x: x.softmax(1), "softmax"),
    "normalised": (lambda x: F.normalize(x, dim=1), "normalize"),
    "gated": (gated, "mul"),
    "maxout": (maxout, "maximum"),
    "attention": (lambda x: (x @ x.transpose(2, 3)) @ x, "matmul_1"),
    "another": (lambda x: x.cumprod(1), "cumprod"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_reaches_a_layer_unrounded_is_named(name):
    act, node = NAMED[name]
    first, second = activations_in_float(quantize_model(Active(act)))
    assert first == f"{node} into second"
    assert second.endswith(" into head")


def test_a_gate_keeps_its_own_activation():
    """SE's sigmoid is a function of another tensor: it, and not the product, is rounded."""
    student = quantize_model(Active(gated), BITS, BITS)
    assert quantized_activations(student)[:3] == ["relu", "relu_1", "sigmoid"]


def test_activations_in_a_row_are_each_rounded_as_ever():
    student = quantize_model(Active(lambda x: F.relu6(x).relu()), BITS, BITS)
    assert quantized_activations(student) == ["relu6", "relu", "relu6_1", "relu_1"]


def test_images_pools_norms_and_logits_are_no_activations():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            x = (x.clamp(0, 1) - 0.5) ** 2  # the images stay in floating point
            x = self.conv(x)
            mean = x.mean(1, keepdim=True)
            spread = (x - mean).pow(2).mean(1, keepdim=True)
            x = (x - mean) / (spread + 1e-5).sqrt()  # a layer norm by hand
            return self.head(x.mean((2, 3))).exp().clamp(max=1)

    graph = trace(Around())
    assert activations(graph) == []
    assert list(unrounded(graph).values()) == ["head"]
    (node,) = unrounded(graph)
    assert operation(graph, node) == "truediv"


def test_what_comes_from_the_images():
    class Sized(nn.Module):
        def forward(self, x):
            size = x.shape[2] * 2
            return x + torch.zeros_like(x) + x.new_ones(size)[0]

    graph = trace(Sized())
    assert {operation(graph, n) for n in from_images(graph)} == {"", "add"}
