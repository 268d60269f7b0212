import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorchcv.model_provider import get_model
from torch import nn

from akt_lab.equalize import equalize
from akt_lab.errors import AktError
from akt_lab.graph import capture_bn_inputs, streams, trace
from akt_lab.quantizer import quantize_model


def randomised(network, seed=0):
    """In eval mode, with batch norms as training leaves them: no two channels are alike."""
    draw = torch.Generator().manual_seed(seed)
    for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        ends = {"weight": (0.05, 2), "bias": (-1, 1), "running_mean": (-1, 1),
                "running_var": (0.5, 2)}  # fmt: skip
        for name, (low, high) in ends.items():
            getattr(norm, name).data.uniform_(low, high, generator=draw)
    return network.eval().requires_grad_(False)


def state(network):
    return copy.deepcopy(network.state_dict())


@torch.no_grad()
def difference(network, other, x):
    """Of two networks' logits, relative to the largest."""
    logits = network(x)
    return ((other(x) - logits).abs().max() / logits.abs().max()).item()


def ratios(stream):
    """Of each channel's range as it is written to that with which it is read."""
    (writer,), (reader,) = stream.writers, stream.readers
    written = writer.bias.abs() + 3 * writer.weight.reshape(stream.width, -1).norm(dim=1)
    read = reader.weight.abs().reshape(len(reader.weight), stream.width, -1)  # one group
    return written / read.amax((0, 2))


def live(values):
    """Those of channels that are written and read."""
    return values[values.isfinite() & (values > 0)]


def spread(values):
    return (values.max() / values.min()).item()


models = torchvision.models
NETWORKS = {  # how many streams are equalized, and the images' size
    "resnet20": (lambda: get_model("resnet20_cifar10"), 12, 32),
    "resnet18": (models.resnet18, 12, 64),  # of each stage its sums, and each body's inside
    "mobilenet_v2": (models.mobilenet_v2, 7, 64),  # its bottlenecks; the rest goes through ReLU6
    "vgg11_bn": (lambda: vgg11(True), 10, 32),
    "vgg11": (lambda: vgg11(False), 10, 32),
    "densenet": (lambda: models.DenseNet(8, (2, 2), 16), 10, 32),  # behind each norm: none is cat's
}


def vgg11(batch_norm):
    """torchvision's, its classifier as well but for its width."""
    return nn.Sequential(
        models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm), nn.AdaptiveAvgPool2d(7),
        nn.Flatten(), nn.Linear(512 * 49, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 16),
        nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10),
    )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_stay(name):
    make, count, size = NETWORKS[name]
    torch.manual_seed(0)
    network, x = randomised(make()), torch.randn(2, 3, size, size)
    before = state(network)
    equalized = equalize(network)
    assert difference(network, equalized, x) < 1e-5
    assert equalized.meta["equalized"] == count
    changed = [k for k, v in equalized.state_dict().items() if not torch.equal(v, before[k])]
    assert len(changed) > count  # a writer and a reader each
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_of_one_writer_and_one_reader_all_channels_get_one_ratio():
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.Conv2d(8, 16, 3),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    torch.manual_seed(0)
    network = randomised(chain)
    for before, after in zip(streams(trace(network)), streams(equalize(network)), strict=True):
        assert spread(ratios(before)) > 3
        assert spread(ratios(after)) == pytest.approx(1, abs=1e-4)
        factors = before.writers[0].weight / after.writers[0].weight
        assert factors.median() == pytest.approx(1, abs=1e-4)  # their common scale stays


def test_sums_share_their_factors():
    network = randomised(get_model("resnet20_cifar10"))
    before, after = trace(network), equalize(network)
    units = [f"features.stage2.unit{i}.body.conv2.bn" for i in (1, 2, 3)]
    units.append("features.stage2.unit1.identity_conv.bn")
    one, *others = (
        before.get_submodule(unit).weight / after.get_submodule(unit).weight for unit in units
    )
    assert spread(one) > 1.2
    for other in others:
        assert torch.allclose(one, other, 1e-5)


def test_batch_norms_read_what_they_did():
    network, x = randomised(get_model("resnet20_cifar10")), torch.randn(2, 3, 32, 32)
    seen = []
    for each in (trace(network), equalize(network)):
        with capture_bn_inputs(each) as statistics, torch.no_grad():
            each(x)
        seen.append(statistics)
    for before, after in zip(*seen, strict=True):
        for a, b in zip(before, after, strict=True):
            assert torch.allclose(a, b, 1e-4, 1e-4)


WIDTHS = st.lists(st.integers(1, 9), min_size=2, max_size=4)
EXPONENTS = st.floats(-6, 6)


@settings(max_examples=20, deadline=None)
@given(WIDTHS, EXPONENTS, EXPONENTS, st.booleans(), st.integers(0, 1000))
def test_widths_scales_and_dead_channels(widths, gamma, weight, norms, seed):
    torch.manual_seed(seed)
    layers, inputs = [], 3
    for width in widths:
        conv = nn.Conv2d(inputs, width, 3, padding=1)
        conv.weight.data *= 10 ** (weight * torch.rand(inputs).view(1, -1, 1, 1))
        layers += [conv, *([nn.BatchNorm2d(width)] if norms else []), nn.ReLU()]
        inputs = width
    network = randomised(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * inputs, 4)), seed)
    for layer in network[1:-1]:  # some channels are dead, or nothing reads them
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data *= 10 ** (gamma * torch.rand(len(layer.weight)))
            layer.weight.data[::3], layer.bias.data[::3] = 0, 0
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[:, ::4] = 0
    alive = [len(live(ratios(stream))) for stream in streams(trace(network))]
    if max(alive) < 2:  # each has nothing to be brought together with
        with pytest.raises(AktError, match="to equalize"):
            equalize(network)
        return
    equalized = equalize(network)
    values = equalized.state_dict().values()
    assert all(value.isfinite().all() for value in values)
    x = torch.randn(2, 3, 4, 4).double()
    assert difference(network.double(), equalized.double(), x) < 1e-5
    for stream in streams(equalized.float()) if norms else ():
        here = live(ratios(stream))
        assert not len(here) or spread(here) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_channel_without_a_range_stays(value):
    network = randomised(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    )
    network[1].bias.data[2] = value
    before, after = (m.get_submodule("1").weight for m in (network, equalize(network)))
    assert after[2] == before[2]
    assert after.isfinite().all()
    assert not torch.equal(after, before)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_a_channel_are_left():
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(27, 0), nn.ReLU(), nn.Linear(0, 4), nn.Unflatten(1, (4, 1, 1)),
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten(),
    )  # fmt: skip
    equalized = equalize(randomised(network))
    assert equalized.meta["equalized"] == 1
    assert difference(network, equalized, torch.randn(2, 3, 3, 3)) < 1e-5


def test_channels_of_one_scale_are_rounded_better():
    """Channels a hundred times apart in one range: at 4 bits only the largest is left."""
    torch.manual_seed(0)
    network = randomised(nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()
    ))  # fmt: skip
    apart = 10.0 ** torch.linspace(-1, 1, 8)
    network[1].weight.data, network[1].bias.data = apart, torch.zeros(8)
    network[3].weight.data /= apart.view(1, -1, 1, 1)
    x = torch.randn(8, 3, 12, 12)
    error = [
        difference(network, quantize_model(each, 4, 4), x) for each in (network, equalize(network))
    ]
    assert error[1] < error[0] / 2


def test_students_learn_from_it():
    network = randomised(get_model("resnet20_cifar10"))
    student = quantize_model(equalize(network), 3, 3).requires_grad_()
    student(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in student.parameters())


class Gate(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


def test_nothing_to_equalize_is_said():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Gate(), nn.Conv2d(4, 5, 1))
    with pytest.raises(AktError, match=r"no channels of Sequential .* drop --equalize"):
        equalize(network)
    ends = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2))
    with pytest.raises(AktError, match="to equalize"):  # it is all logits
        equalize(ends)
