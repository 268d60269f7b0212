"""Which channels may be scaled: each case is scaled by hand, and its logits must stay."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akt_lab.graph import streams, trace


class Chain(nn.Module):
    """conv, norm, `between`, and a last layer on maps of 4 channels and 4 x 4 pixels."""

    def __init__(self, between, last=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.between, self.last = between, last or nn.Linear(4, 5)
        self.kept = nn.Parameter(torch.rand(4))
        self.flat = nn.Flatten()

    def forward(self, x):
        return self.last(self.between(self, self.norm(self.conv(x))))


def pooled(step):
    """Of a chain whose maps are averaged after `step`."""
    return lambda net, x: F.adaptive_avg_pool2d(step(net, x), 1).flatten(1)


def wide(flatten):
    """Of a chain whose last layer reads every position after `flatten`."""
    return Chain(lambda net, x: flatten(F.relu(x)), nn.Linear(64, 5))


def chain(step):
    return Chain(pooled(step))


SCALED = {
    "F.relu": lambda: chain(lambda net, x: F.relu(x)),
    "leaky": lambda: chain(lambda net, x: F.leaky_relu(x, 0.3)),
    "prelu": lambda: chain(lambda net, x: F.prelu(x, net.kept)),
    "dropout": lambda: chain(lambda net, x: F.dropout(x, 0.5, net.training)),
    "max pool": lambda: chain(lambda net, x: F.max_pool2d(x, 3, 2, 1)),
    "average pool": lambda: chain(lambda net, x: F.avg_pool2d(x, 2)),
    "a sum with itself": lambda: chain(lambda net, x: x.relu() + x),
    "a difference": lambda: chain(lambda net, x: torch.sub(x.relu(), x, alpha=2)),
    "a sum that begins with 0": lambda: chain(lambda net, x: sum([x, x.relu()])),
    "mean": lambda: Chain(lambda net, x: x.relu().mean((2, 3))),
    "mean, one after the other": lambda: Chain(lambda net, x: x.relu().mean(-1).mean(2)),
    "mean that keeps": lambda: Chain(lambda net, x: x.relu().mean([2, 3], True).flatten(1)),
    "flatten": lambda: wide(lambda x: x.flatten(1)),
    "torch.flatten": lambda: wide(lambda x: torch.flatten(x, start_dim=1, end_dim=-1)),
    "nn.Flatten": lambda: Chain(lambda net, x: net.flat(x), nn.Linear(64, 5)),
    "view": lambda: wide(lambda x: x.view(x.size(0), -1)),
    "reshape": lambda: wide(lambda x: x.reshape((x.shape[0], -1))),
    "pooled, then flattened": lambda: Chain(
        lambda net, x: F.max_pool2d(x, 2).flatten(1), nn.Linear(16, 5)
    ),
}

CLOSED = {
    "images": lambda: Skipping(),
    "sigmoid": lambda: chain(lambda net, x: x.sigmoid()),
    "SiLU": lambda: chain(lambda net, x: F.silu(x)),
    "ReLU6": lambda: chain(lambda net, x: F.relu6(x)),
    "clamp": lambda: chain(lambda net, x: x.clamp(0, 2)),
    "a gate": lambda: chain(lambda net, x: x * x.mean((2, 3), keepdim=True)),
    "a constant": lambda: chain(lambda net, x: x + 1),
    "a weight": lambda: chain(lambda net, x: x + net.kept[:, None, None]),
    "a blank": lambda: chain(lambda net, x: x + torch.ones_like(x)),
    "cat": lambda: Chain(
        pooled(lambda net, x: torch.cat([x.relu(), x], 1)), nn.Linear(8, 5)
    ),
    "a mean of all": lambda: chain(lambda net, x: x.relu() - x.mean(dim=None)),
    "softmax": lambda: chain(lambda net, x: x.softmax(1)),
    "a mean over channels": lambda: chain(lambda net, x: x.relu() - x.mean(1, keepdim=True)),
    "transposed before it is flattened": lambda: wide(lambda x: x.transpose(1, 2).flatten(1)),
    "channels flattened into the batch": lambda: Chain(
        lambda net, x: x.flatten(0, 1).mean((1, 2)).view(-1, 4)
    ),
    "a linear layer along the width": lambda: Chain(lambda net, x: x.relu()),
    "pooled with places": lambda: chain(
        lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0]
    ),
}  # fmt: skip


def scale(stream):
    """Divide and multiply a stream's channels by powers of two: no rounding."""
    s = 2.0 ** torch.arange(stream.width).remainder(5).sub(2)
    for writer in stream.writers:
        for weight in (writer.weight, writer.bias):
            weight.data = weight / s.view(-1, *(1,) * (weight.ndim - 1))
    for reader in stream.readers:
        groups = getattr(reader, "groups", 1)
        parts = reader.weight.reshape(groups, reader.weight.shape[0] // groups,
                                      stream.width // groups, -1)  # fmt: skip
        reader.weight.data = (parts * s.view(groups, 1, -1, 1)).reshape(reader.weight.shape)


def checked(network, images=None):
    """The streams of a network, after its logits stayed with all of them scaled."""
    torch.manual_seed(0)
    for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        norm.weight.data.normal_(), norm.bias.data.normal_()
    x = torch.randn(4, 3, 4, 4) if images is None else images
    with torch.no_grad():
        graph = trace(network)
        expected, found = graph(x), streams(graph)
        for stream in found:
            scale(stream)
        logits = graph(x)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    return found


@pytest.mark.parametrize("name", SCALED)
def test_what_passes_channels_on(name):
    (stream,) = checked(SCALED[name]())
    assert [type(m).__name__ for m in stream.writers] == ["BatchNorm2d"]
    assert [type(m).__name__ for m in stream.readers] == ["Linear"]
    assert stream.width == 4


@pytest.mark.parametrize("name", CLOSED)
def test_what_does_not(name):
    assert checked(CLOSED[name]()) == []


class Skipping(nn.Module):
    """Adds the images to the first norm's output."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x):
        return self.last((self.norm(self.conv(x)) + x).relu().mean((2, 3)))


def test_a_norm_that_reads_and_one_without_weights():
    plain = nn.BatchNorm2d(4, affine=False)
    none = nn.BatchNorm2d(4, track_running_stats=False)
    conv, last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 4)
    for norm in (plain, none):
        network = nn.Sequential(conv, norm, nn.ReLU(), last, nn.Flatten())
        assert streams(trace(network)) == []
    layers = conv, nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), last, nn.Flatten()
    (stream,) = checked(nn.Sequential(*layers))
    assert [type(m).__name__ for m in stream.writers] == ["BatchNorm2d"]
    (stream,) = checked(nn.Sequential(conv, nn.ReLU(), last, nn.Flatten()))
    assert [type(m).__name__ for m in stream.writers] == ["Conv2d"]


class Twice(nn.Module):
    """A middle layer that runs twice, or whose weight something else reads, or which has a hook."""

    def __init__(self, how):
        super().__init__()
        self.first, self.middle, self.other = (nn.Conv2d(c, 4, 1) for c in (3, 4, 4))
        self.last, self.how = nn.Conv2d(4, 5, 4), how
        if how == "tied":
            self.other.weight = self.middle.weight
        if how == "hook":
            self.middle.register_forward_hook(lambda m, i, o: o + 1)
        if how == "parametrized":
            nn.utils.parametrizations.weight_norm(self.middle)

    def forward(self, x):
        x = self.middle(self.first(x).relu()).relu()
        x = self.middle(x).relu() if self.how == "runs twice" else self.other(x).relu()
        if self.how == "read":
            x = x + self.middle.weight.mean()
        return self.last(x).flatten(1)


def test_weights_that_are_not_a_layer_s_own():
    assert len(checked(Twice("whole"))) == 3
    left = {"tied": 0, "hook": 1, "runs twice": 0, "parametrized": 1, "read": 0}
    for how, count in left.items():
        assert len(checked(Twice(how))) == count, how


class Tokens(nn.Module):
    """Linear layers and a norm that read (B, T, C): the channel's axis depends on who reads."""

    def __init__(self, between):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 4), nn.Linear(4, 4), between

    def forward(self, x):  # (B, 3, 4, 4)
        return self.last(self.between(self.first(x.flatten(1, 2)))).mean(1)


def test_channels_of_tokens_are_the_last_axis():
    (stream,) = checked(Tokens(nn.ReLU()))
    assert stream.width == 4
    x = torch.randn(2, 2, 2, 4)
    for between in (nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.AvgPool1d(1), nn.LayerNorm(4)):
        found = checked(Tokens(between), x)
        assert not any(m.__class__.__name__ == "Linear" for s in found for m in s.writers)


def test_groups_and_depthwise():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, groups=4), nn.PReLU(16), nn.Conv2d(16, 5, 2, groups=1), nn.Flatten(),
    )  # fmt: skip
    assert [stream.width for stream in checked(network)] == [8, 8, 16]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_to_three_dimensions(dims):
    conv, norm, pool = (
        getattr(nn, f"{name}{dims}d") for name in ("Conv", "BatchNorm", "AdaptiveMaxPool")
    )
    network = nn.Sequential(
        conv(3, 4, 1), norm(4), nn.LeakyReLU(), pool(1), nn.Flatten(), nn.Linear(4, 6),
        nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2),
    )  # fmt: skip
    found = checked(network, torch.randn(2, 3, *(5,) * dims))
    assert [stream.width for stream in found] == [4, 6]


def test_a_sum_with_one_channel_that_is_broadcast():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.last = (nn.Conv2d(3, c, 1) for c in (4, 1, 5))
            self.last = nn.Conv2d(4, 5, 4)

        def forward(self, x):
            return self.last((self.wide(x) + self.narrow(x)).relu()).flatten(1)

    assert checked(Broadcast()) == []
