"""A network as a graph in which nothing is changed in place."""

import copy
import operator
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from akt_lab.errors import AktError
from akt_lab.graph import capture_maps, is_activation, residual_bodies, trace
from akt_lab.quantizer import quantize_model, quantized_layers


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
    "__iadd__": lambda net, y, x: y.__iadd__(x),
    "operator.imul": lambda net, y, x: operator.imul(y, x),
    "F.dropout": lambda net, y, x: F.dropout(y, 0.5, False, inplace=True),
    "masked_fill_, after pow_": lambda net, y, x: y.pow_(2).masked_fill_(x > 0, 1),
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


def test_a_change_is_seen_by_all_who_hold_the_tensor():
    def change(net, y, x):
        net.held = y
        y += x
        y *= 2
        return y

    class Holding(Changed):
        def forward(self, x):
            return super().forward(x) + self.held

    net, x = Holding(change), torch.randn(2, 3, 4, 4)
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


# ---- networks as they are brought ----


class Net(nn.Module):
    """Two convolutions and a residual sum; what else a test gives it."""

    def __init__(self, conv=nn.Conv2d):
        super().__init__()
        self.first, self.norm = conv(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(x + self.second(x)).mean((2, 3)))


class Flags(Net):
    def forward(self, x, return_features=False, mask=None, *more, scale=2.0, **others):
        if self.training or mask is not None:
            raise ValueError
        assert x.shape[1] == 3, "of colour"
        assert x.dim() == 4 and x.size(2) % 2 == 0  # noqa: PT018
        logits = super().forward(x * scale)
        return (logits, x) if return_features else logits


class Reshaped(Net):
    """A layout asked for, twice; channels shuffled as in ShuffleNet."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, x):
        x = self.first(x)
        b, c, h, w = x.size()
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.head(self.second(x).view(x.size(0), -1))


class Named(Net):
    def __init__(self):
        super().__init__()
        names = "conv-1", "a b", "7", "<img src=x>", "é", "relu_"
        self.blocks = nn.ModuleDict({name: nn.Conv2d(4, 4, 1) for name in names})
        self.scales = nn.ParameterList([torch.rand(4, 1, 1)])
        self.again = self.second

    def forward(self, x):
        x = self.first(x) * self.scales[0]
        for block in self.blocks.values():
            x = block(x)
        return self.head((self.again(x) + self.second(x)).mean((2, 3)))


class Held(Net):
    """Holds what cannot be copied, and remembers."""

    def __init__(self):
        super().__init__()
        self.lock, self.numbers, self.seen = threading.Lock(), (i for i in range(3)), []
        self.rng = torch.Generator()

    def forward(self, x):
        with self.lock:
            self.feature = self.first(x)
            self.seen.append(self.feature)
            return super().forward(x)


class Buffers(Net):
    """Expanded, whole-numbered, boolean and empty buffers, and a whole number to be learned."""

    def __init__(self):
        super().__init__()
        self.register_buffer("expanded", torch.rand(1, 1, 1).expand(4, 6, 6))
        self.register_buffer("whole", torch.arange(4))
        self.register_buffer("on", torch.ones(4, dtype=torch.bool))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("passing", torch.rand(4, 1, 1), persistent=False)
        self.count = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, x):
        x = self.first(x) * self.expanded * self.passing * self.count + self.empty.sum()
        x = x * self.on[:, None, None] + self.whole[:, None, None]
        return self.head(F.relu(self.second(x)).mean((2, 3)))


class PlainConv(nn.Conv2d):
    """A name and a default."""

    def __init__(self, channels, out, kernel=3, padding=1):
        super().__init__(channels, out, kernel, padding=padding)


def with_(change, net=None):
    net = net or Net()
    change(net)
    return net


def used(net):
    net(torch.randn(2, 3, 6, 6))
    return net


def weight_norm(*sizes, **options):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(nn.Conv2d(*sizes, **options))


BROUGHT = {
    "flags": Flags,
    "view": Reshaped,
    "odd names": Named,
    "locks": Held,
    "locks, used": lambda: used(Held()),
    "buffers": Buffers,
    "a subclass": lambda: Net(PlainConv),
    "weight_norm": lambda: Net(weight_norm),
    "weight_norm, used": lambda: used(Net(weight_norm)),
    "spectral_norm": lambda: used(Net(lambda *a, **k: nn.utils.spectral_norm(nn.Conv2d(*a, **k)))),
    "pruned": lambda: used(with_(lambda n: prune.l1_unstructured(n.first, "weight", 0.5))),
    "hooks": lambda: with_(
        lambda n: (
            n.register_forward_pre_hook(lambda m, x: (x[0] * 2,)),
            n.register_forward_hook(lambda m, x, y: y + 1),
            n.first.register_forward_hook(lambda m, x, y: y * 2),
        )
    ),
    "its forward replaced": lambda: with_(
        lambda n: setattr(n, "forward", types.MethodType(lambda s, x: Net.forward(s, x) * 2, n))
    ),
    "in parallel": lambda: nn.DataParallel(Net()),
    "in parallel, inside": lambda: nn.Sequential(nn.DataParallel(Net())),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "traced": lambda: trace(Net()),
    "frozen": lambda: Net().requires_grad_(False),
}


@pytest.mark.parametrize("name", BROUGHT)
def test_a_network_as_it_is_brought(name):
    torch.manual_seed(0)
    net = BROUGHT[name]().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    graph, student = trace(net), quantize_model(net, 8, 8).requires_grad_()
    graph.to(memory_format=torch.channels_last)
    expected = net(x.contiguous())
    assert torch.allclose(graph(x), expected, atol=1e-5)
    error = (student(x) - expected).abs().max()
    assert error < 0.05 * expected.abs().max()
    (expected - student(x)).square().sum().backward()
    layers = [student.get_submodule(name) for name in quantized_layers(student)]
    assert len(layers) >= 3
    assert all(p.grad is not None for layer in layers for p in layer.parameters())
    assert residual_bodies(student) == residual_bodies(graph)
    student.load_state_dict(copy.deepcopy(student.state_dict()))
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Branching(Net):
    def forward(self, x):
        return super().forward(x * 2 if x.shape[2] > 4 else x)


class Writing(Net):
    def forward(self, x):
        x = x * 1
        x[:, 0] = 0
        return super().forward(x)


def returning(what):
    class Returning(Net):
        def forward(self, x):
            return what(super().forward(x), x)

    return Returning


class Other(Net):
    def forward(self, x, other):
        return super().forward(x + other)


REFUSED = {
    "a branch on a shape": (Branching, r"Branching \(test_tracing.py, line \d+: symbolically"),
    "a part that is written": (Writing, "item assignment.*nor write into a part"),
    "zeros of a size": (
        returning(lambda y, x: y + torch.zeros(y.size(0), 1, device=y.device)),
        r"its sizes are a tensor's: make it by x.new_zeros",
    ),
    "two inputs": (Other, "missing 1 required positional argument: 'other'.*a batch of images"),
    "a tuple": (returning(lambda y, x: (y, x)), "returns a tuple: wrap it"),
    "a dict": (returning(lambda y, x: {"out": y}), "returns a dict: wrap it"),
    "out=": (returning(lambda y, x: torch.add(y, 1, out=y)), r"out=\): use reshape"),
    "strides": (returning(lambda y, x: y.as_strided((2, 2), (2, 1))), "as_strided.* as it lies"),
    "a quote in a name": (lambda: nn.Sequential(nn.ModuleDict({'a"b': nn.ReLU()})), "rename it"),
    "a keyword": (lambda: nn.Sequential(nn.ModuleDict({"class": nn.ReLU()})), "rename it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_with_the_reason(name):
    make, words = REFUSED[name]
    with pytest.raises(AktError, match=words) as caught:
        trace(make())
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_script_module_is_refused():
    scripted = torch.jit.trace(Net().eval(), torch.randn(2, 3, 6, 6))
    for net in (scripted, nn.Sequential(scripted)):
        with pytest.raises(AktError, match="a ScriptModule shows no layers"):
            trace(net)


def test_what_nothing_reads_is_left_out():
    class Aside(Net):
        def forward(self, x):
            self.aside = self.second(self.first(x)).relu()
            return self.head(self.first(x).mean((2, 3)))

    assert quantized_layers(quantize_model(Aside())) == ["first", "head"]


def test_parametrized_layers_are_refused_with_the_way_out():
    net = Net(lambda *a, **k: parametrizations.weight_norm(nn.Conv2d(*a, **k)))
    with pytest.raises(AktError, match="remove_parametrizations"):
        quantize_model(net)
