"""What a traced network shows: maps, and batch norms' statistics."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from akt_lab.errors import AktError, UsageError
from akt_lab.graph import batch_norms, capture_bn_inputs, capture_maps, residual_bodies, trace
from akt_lab.quantizer import quantize_model


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


# ---- batch norms of every kind ----


class NormAndActivation(nn.BatchNorm2d):
    """As timm's: torch.fx looks inside a class with a forward of its own."""

    def forward(self, x):
        return F.relu(super().forward(x))


class Plain(nn.BatchNorm2d):
    """A name, and nothing else."""


class Written(nn.Module):
    """A batch norm by hand, in eval mode."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.rand(channels)) for _ in range(2))
        self.register_buffer("running_mean", torch.rand(channels))
        self.register_buffer("running_var", torch.rand(channels))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class Called(nn.Module):
    """F.batch_norm, with buffers of other names or with the batch's own statistics."""

    def __init__(self, channels, training=False):
        super().__init__()
        self.training_statistics = training
        self.register_buffer("mean", torch.rand(channels))
        self.register_buffer("var", torch.rand(channels))

    def forward(self, x):
        if self.training_statistics:
            return F.batch_norm(x, None, None, training=True)
        return F.batch_norm(x, self.mean, self.var)


class Normed(nn.Module):
    """Two convolutions, each with a norm behind it."""

    def __init__(self, norm, shared=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = norm(4)
        self.other = self.norm if shared else norm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(x + self.other(self.second(x))).mean((2, 3)))


NORMS = {  # how many match, of how many
    "torch's": (nn.BatchNorm2d, (2, 2)),
    "for several GPUs": (nn.SyncBatchNorm, (2, 2)),
    "a subclass": (Plain, (2, 2)),
    "with its activation": (NormAndActivation, (2, 2)),
    "frozen": (FrozenBatchNorm2d, (2, 2)),
    "by hand": (Written, (2, 2)),
    "a function": (Called, (2, 2)),
    "of the batch": (lambda c: Called(c, True), (0, 2)),
    "without statistics": (lambda c: nn.BatchNorm2d(c, track_running_stats=False), (0, 2)),
    "of instances": (lambda c: nn.InstanceNorm2d(c, track_running_stats=True), (0, 0)),
    "of groups": (lambda c: nn.GroupNorm(2, c), (0, 0)),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shared", [False, True])
def test_batch_norms_of_every_class_are_matched_or_counted(name, shared):
    norm, expected = NORMS[name]
    net, x = Normed(norm, shared).eval(), torch.randn(2, 3, 4, 4)
    graph, student = trace(net), quantize_model(net)
    assert batch_norms(graph) == batch_norms(student) == expected
    with capture_bn_inputs(graph) as statistics, torch.no_grad():
        assert torch.allclose(graph(x), net(x), atol=1e-6)
    assert len(statistics) == expected[0]
    if statistics:
        first, running = net.first(x), [b for b in net.norm.buffers() if b.shape == (4,)]
        mean, variance, running_mean, running_var = statistics[0]
        assert torch.allclose(mean, first.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(variance, first.var((0, 2, 3), correction=0), atol=1e-6)
        kept = torch.stack([running_mean, running_var])
        assert any(torch.equal(kept, torch.stack(running[i : i + 2])) for i in range(3))
    with capture_maps(graph, residual_bodies(graph)) as maps:
        graph(x)
    assert [x.shape for x in maps.values()] == [(2, 4, 4, 4)]
    student.load_state_dict(student.state_dict())


def test_a_batch_norm_that_cannot_leave_training_is_refused():
    class Stubborn(Normed):
        def train(self, mode=True):
            super().train(mode)
            self.norm.training = True
            return self

    with pytest.raises(AktError, match="norm stays in training mode"):
        trace(Stubborn(nn.BatchNorm2d))
