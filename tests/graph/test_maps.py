"""Which feature maps are distilled."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import stochastic_depth

from akt_lab.errors import AktError, UsageError
from akt_lab.graph import capture_maps, map_layers, residual_bodies, residual_sums, trace
from akt_lab.graph.maps import PLACES
from akt_lab.quantizer import quantize_model
from akt_lab.speed import speed_up


class MethodSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.body(x).add_(x)


def test_bodies(functional_net):
    units = residual_bodies(trace(functional_net))
    assert units == ["body_0"]  # behind the second use of `relu`, the end of its only unit
    assert residual_bodies(trace(MethodSum())) == ["body"]
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    assert residual_bodies(trace(plain)) == ["1", "3"]
    with pytest.raises(AktError, match="no convolution"):
        residual_bodies(trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))


# ---- which maps are distilled ----


@pytest.mark.parametrize("bits", [None, 3])
def test_where_maps_are_taken(digits, bits):
    def made():
        return trace(digits.teacher) if bits is None else quantize_model(digits.teacher, bits, bits)

    x = digits.normalise(digits.images[:2])
    seen, outputs = [], []
    for place in PLACES:
        network = made()
        layers = map_layers(network, place)
        assert len(layers) == len(residual_bodies(made()))
        with capture_maps(network, layers[-1:]) as maps:
            outputs.append(network(x))
        seen += maps.values()
    body, total, relu = seen
    assert not torch.equal(body, total)
    assert not torch.equal(relu, total)
    assert torch.equal(relu, total.relu())
    assert torch.equal(outputs[0], outputs[2])


def test_which_maps_mistakes(digits):
    assert (
        map_layers(trace(digits.teacher), "body", 1) == residual_bodies(trace(digits.teacher))[-1:]
    )
    assert map_layers(trace(digits.teacher), "sum", 2) == ["sum_1", "sum_2"]
    with pytest.raises(UsageError, match="unknown maps 'add'"):
        map_layers(trace(digits.teacher), "add")
    with pytest.raises(UsageError, match="no residual sum"):
        map_layers(trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())), "sum")
    with pytest.raises(UsageError, match="no activation follows"):
        map_layers(trace(LinearSum()), "relu")


class LinearSum(nn.Module):
    """As in MobileNetV2: no activation follows the sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.body(x))


# ---- where a body ends ----


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Unit(nn.Module):
    """A stem, and a residual unit whose body ends in `end` and is added by `add`."""

    def __init__(self, end=lambda net, y: y, add=lambda net, x, y: x + y):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other, self.gate = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("prior", torch.rand(2))
        self.end, self.add = end, add

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        y = self.end(self, self.last(self.conv(x)))
        self.body = y  # for the test
        return self.head(F.relu(self.add(self, x, y)).mean((2, 3)))


def gated(net, y):
    return y * torch.sigmoid(net.gate(F.adaptive_avg_pool2d(y, 1)))


ENDS = {
    "a layer": lambda net, y: y,
    "an operation": lambda net, y: y * 0.5,
    "a gate": gated,
    "a gate from a mean": lambda net, y: y * net.gate(y.mean((2, 3), keepdim=True)).sigmoid(),
    "stochastic depth": lambda net, y: stochastic_depth(y, 0.1, "row", net.training),
    "a function": lambda net, y: F.relu(y),
    "a function in place": lambda net, y: F.relu(y, inplace=True),
    "dropout": lambda net, y: F.dropout(y, 0.1, net.training),
    "a layer's scale": lambda net, y: net.scale * y,
    "a shared layer": lambda net, y: net.relu(y),
    "the layers once more": lambda net, y: net.last(net.conv(y)),
    "groups, summed": lambda net, y: y.view(-1, 2, 2, 6, 6).sum(1).repeat(1, 2, 1, 1),
    "shuffled channels": lambda net, y: y.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
}
SUMS = {
    "+": lambda net, x, y: x + y,
    "the other way": lambda net, x, y: y + x,
    "+=": lambda net, x, y: x.__iadd__(y),
    "add": lambda net, x, y: y.add(x),
    "alpha": lambda net, x, y: torch.add(x, y, alpha=0.5),
    "times 1": lambda net, x, y: 1 * y + x * 1,
    "minus": lambda net, x, y: x - y,
    "a stack": lambda net, x, y: torch.stack([x, y]).sum(0),
    "sum()": lambda net, x, y: sum([x, y]),
    "three": lambda net, x, y: x + y + net.other(x),
    "and a constant": lambda net, x, y: x + net.scale + y,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_body_s_map_is_taken_at_its_true_end(end):
    check_unit(Unit(ENDS[end]))


@pytest.mark.parametrize("add", SUMS)
def test_a_residual_sum_in_any_form(add):
    check_unit(Unit(add=SUMS[add]))


def check_unit(net):
    """One map, of the body's end, of one name in teacher and student, before the rounding."""
    net, x = net.eval(), torch.randn(2, 3, 6, 6)
    expected = net(x)
    graph, student = trace(net), quantize_model(net, 8, 8)
    (name,) = residual_bodies(graph)
    assert residual_bodies(student) == [name]
    for network in (graph, student):
        assert len(residual_sums(network)) == 1
        speed_up(network, keep=[name])
        with capture_maps(network, [name]) as maps, torch.no_grad():
            logits = network(x)
        found = maps[name]
        if network is graph:
            assert torch.allclose(found, net.body, atol=1e-6)
            assert torch.allclose(logits, expected, atol=1e-6)
        else:
            assert torch.allclose(found, net.body, atol=0.05 * net.body.abs().max().item())
    coarse = quantize_model(net, 8, 2)
    with capture_maps(coarse, [name]) as maps:
        coarse(x)
    assert len(maps[name].unique()) > 2**2  # not yet on the grid
    for place in ("sum", "relu"):
        assert map_layers(trace(net), place) == map_layers(quantize_model(net), place)


NO_SUMS = {
    "a parameter": lambda net, x, y: y + net.scale,
    "a parameter first": lambda net, x, y: net.scale + y,
    "a buffer": lambda net, x, y: y + net.prior[0],
    "a number": lambda net, x, y: y + 0.5,
    "of its shape alone": lambda net, x, y: y + torch.ones_like(x),
    "a pooled map": lambda net, x, y: y + net.gate(F.adaptive_avg_pool2d(y, 1)),
    "a function of the other": lambda net, x, y: y + y.exp(),
    "nothing": lambda net, x, y: y,
}


@pytest.mark.parametrize("add", NO_SUMS)
def test_a_constant_or_a_bias_is_no_residual_sum(add):
    graph = trace(Unit(add=NO_SUMS[add]))
    assert residual_sums(graph) == []
    assert residual_bodies(graph) == ["norm", "last"]


def test_logits_and_pooled_vectors_are_no_maps():
    class TwoHeads(Unit):
        def forward(self, x):
            pooled = self.stem(x).mean((2, 3))
            return super().forward(x) + self.head(pooled + pooled.tanh() * 2) + self.prior

    assert residual_bodies(trace(TwoHeads())) == ["last"]
    pooled = nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
    assert residual_bodies(trace(nn.Sequential(*pooled, *head))) == ["0"]


def test_layers_that_run_again_and_again_each_have_their_place():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.norm = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 4, 1),
                nn.BatchNorm2d(4),
            )
            self.body_0 = nn.Linear(4, 2)  # a name that is taken

        def forward(self, x):
            x = F.relu(self.stem(x))
            for _ in range(3):
                x = F.relu(self.norm(self.conv(x)))
            return self.body_0(x.mean((2, 3)))

    net, x = Recurrent().eval(), torch.randn(2, 3, 4, 4)
    graph = trace(net)
    with capture_maps(graph, residual_bodies(graph)) as maps:
        assert torch.equal(graph(x), net(x))
    assert len(maps) == 4
    assert residual_bodies(quantize_model(net)) == list(maps)


def test_the_skip_of_a_sum_of_sums_is_not_in_its_body():
    """Shake-shake: the sum of two branches, scaled, is the body."""
    net = Unit(add=lambda net, x, y: x + 0.5 * (y + net.other(net.stem_again(x))))
    net.stem_again = nn.Conv2d(4, 4, 1)
    graph, x = trace(net.eval()), torch.randn(2, 3, 6, 6)
    assert len(residual_sums(graph)) == 1
    with capture_maps(graph, residual_bodies(graph)) as maps:
        graph(x)
    net(x)
    inside = net.relu(net.norm(net.stem(x)))
    expected = 0.5 * (net.body + net.other(net.stem_again(inside)))
    assert torch.allclose(next(iter(maps.values())), expected, atol=1e-6)


def test_a_sum_of_two_convolutions_is_one():
    net = Unit(add=lambda net, x, y: net.other(x) + net.gate(x))
    assert residual_bodies(trace(net)) == ["other"]  # of equally deep branches the first
