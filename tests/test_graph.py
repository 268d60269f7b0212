"""What a traced network shows: maps, batch-norm inputs, and which maps are distilled."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akt_lab.errors import AktError, UsageError
from akt_lab.graph import (
    PLACES,
    capture_bn_inputs,
    capture_maps,
    is_activation,
    map_layers,
    residual_bodies,
    trace,
)
from akt_lab.quantizer import quantize_model


class Changed(nn.Module):
    """A body whose output y is changed in place, and then read by its first name."""

    def __init__(self, change):
        super().__init__()
        self.body, self.relu, self.change = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), change

    def forward(self, x):
        y = self.body(x)
        self.change(self, y, x)
        y **= 2
        return y * x


CHANGES = {
    "sub_": lambda net, y, x: y.sub_(0.1),
    "div_": lambda net, y, x: y.div_(x),
    "clamp_": lambda net, y, x: y.clamp_(min=0),
    "masked_fill_": lambda net, y, x: y.masked_fill_(x > 0, 0.5),
    "twice": lambda net, y, x: y.add_(1).mul_(2),
    "exp_": lambda net, y, x: torch.exp_(y),
    "zero_": lambda net, y, x: y.zero_(),
    "fill_": lambda net, y, x: y.fill_(0.5),
    "copy_": lambda net, y, x: y.copy_(x[:1]),
}

ACTIVE_CHANGES = {
    "relu_": lambda net, y, x: y.relu_(),
    "sigmoid_": lambda net, y, x: y.sigmoid_(),
    "tanh_": lambda net, y, x: y.tanh_(),
    "torch.sigmoid_": lambda net, y, x: torch.sigmoid_(y),
    "F.relu_": lambda net, y, x: F.relu_(y),
    "F.hardtanh_": lambda net, y, x: F.hardtanh_(y, 0, 6),
    "F.leaky_relu_": lambda net, y, x: F.leaky_relu_(y, 0.1),
    "F.relu": lambda net, y, x: F.relu(y, True),
    "F.hardswish": lambda net, y, x: F.hardswish(y, inplace=True),
    "nn.ReLU": lambda net, y, x: net.relu(y),
}


@pytest.mark.parametrize("name", [*CHANGES, *ACTIVE_CHANGES])
def test_a_change_in_place_becomes_what_it_computes(name):
    net, x = Changed((CHANGES | ACTIVE_CHANGES)[name]), torch.randn(2, 3, 4, 4)
    graph = trace(net)
    with capture_maps(graph, ["body"]) as maps:
        assert torch.equal(graph(x), net(x))
    assert torch.equal(maps["body"], net.body(x))
    active = [node for node in graph.graph.nodes if is_activation(graph, node)]
    assert len(active) == (name in ACTIVE_CHANGES)


def test_what_only_looks_like_a_change_in_place():
    """Numbers, names with two underscores, methods without a twin."""

    def change(net, y, x):
        channels = y.size(1)
        more = operator.iadd(channels, 1)
        return y[:, : channels - 1].requires_grad_().new_zeros(more).zero_()

    net, x = Changed(change), torch.randn(2, 3, 4, 4)
    assert torch.equal(trace(net)(x), net(x))


def test_random_values_at_every_pass_are_refused():
    for change in (lambda net, y, x: y.bernoulli_(0.5), lambda net, y, x: y.normal_()):
        with pytest.raises(AktError, match="at random at every pass: leave it out"):
            trace(Changed(change))


def test_a_change_in_place_behind_a_view_is_refused():
    changes = (
        lambda net, y, x: y.flatten(2).mul_(2),
        lambda net, y, x: y[:, :1].relu_(),
        lambda net, y, x: net.relu(y.view(2, -1)),
    )
    for change in changes:
        with pytest.raises(AktError, match="body may share: write it out of place"):
            trace(Changed(change))


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_maps_by_name_in_the_order_asked_for():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1))
    x = torch.randn(2, 1, 4, 4)
    with capture_maps(net, ["2", "0"]) as maps:
        y = net(x)
    assert list(maps) == ["2", "0"]
    assert torch.equal(maps["2"], y)
    assert torch.equal(maps["0"], net[0](x))
    assert hooks(net) == 0


def test_no_hook_is_left_after_an_exception():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    for capture in (capture_maps(net, ["0"]), capture_bn_inputs(net)):
        with pytest.raises(RuntimeError, match="mine"), capture:
            raise RuntimeError("mine")
        assert hooks(net) == 0


def test_mistakes_are_told():
    shared = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(1, 2, 1), shared, shared, nn.Identity())
    x = torch.randn(1, 1, 2, 2)
    with pytest.raises(UsageError, match="unknown layer 'conv'"), capture_maps(net, ["conv"]):
        pass
    with pytest.raises(AktError, match="did not run"), capture_maps(net, ["0"]):
        pass
    with pytest.raises(AktError, match="ran twice"), capture_maps(net, ["1"]):
        net(x)
    in_place = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True))
    with pytest.raises(AktError, match="changed in place"), capture_maps(in_place, ["0"]):
        in_place(x)


def test_batch_norm_statistics_and_their_gradient():
    norm = nn.BatchNorm2d(3).eval().double()
    norm.running_mean.copy_(torch.tensor([1.0, 2, 3]))
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    with capture_bn_inputs(norm) as statistics:
        norm(x)
    ((mean, variance, running_mean, running_var),) = statistics
    assert torch.allclose(mean, x.mean((0, 2, 3)))
    assert torch.allclose(variance, x.var((0, 2, 3), correction=0))  # biased
    assert running_mean is norm.running_mean
    assert running_var is norm.running_var
    (gradient,) = torch.autograd.grad((mean.sin() + variance.exp()).sum(), x)
    plain = x.mean((0, 2, 3)).sin() + x.var((0, 2, 3), correction=0).exp()
    assert torch.allclose(gradient, torch.autograd.grad(plain.sum(), x)[0])


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
