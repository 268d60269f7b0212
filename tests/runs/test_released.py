"""Students as GDFQ's code saves them: files with its names, and its arithmetic written anew."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytorchcv.model_provider import get_model
from torch import nn

from akt_lab.benches import BenchSpec, load_bench
from akt_lab.errors import AktError
from akt_lab.export import check_exportable
from akt_lab.quantizer import (
    affine_parameters,
    fake_quantize,
    quantize_model,
    quantized_activations,
    quantized_layers,
)
from akt_lab.runs import released
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_student

BITS = 3
UNITS = list(itertools.product((1, 2, 3), (0, 1, 2)))  # stage, unit; the first of 2 and 3 widens


def published(x, low, high, bits):
    """Rounded as published: whole numbers from -2^(b-1), of a zero point that is rounded first."""
    scale = (2**bits - 1) / torch.clamp(high - low, min=1e-8)
    zero_point = torch.round(scale * low) + 2 ** (bits - 1)
    q = torch.round(scale * x - zero_point).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (q + zero_point) / scale


def rows(weight, bits=BITS):
    """A weight, a range for each output channel."""
    shape = (-1, *(1,) * (weight.ndim - 1))
    ends = (getattr(weight.flatten(1), end)(1).values.view(shape) for end in ("min", "max"))
    return published(weight, *ends, bits)


class Published:
    """ResNet-20 with CIFAR's classes as it runs there, on the entries of its state dict."""

    def __init__(self, entries):
        self.entries, self.observing = entries, False

    def conv(self, x, name, stride=1):
        weight = rows(self.entries[f"{name}.conv.weight"])
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        own = (self.entries[f"{name}.bn.{key}"] for key in
               ("running_mean", "running_var", "weight", "bias"))  # fmt: skip
        return F.batch_norm(x, *own)

    def act(self, x, name):
        x, (low, high) = x.relu(), (f"{name}.activ.1.x_{end}" for end in ("min", "max"))
        if self.observing:
            self.entries[low], self.entries[high] = torch.zeros(1), 0.8 * x.max().view(1).float()
        return published(x, self.entries[low].to(x), self.entries[high].to(x), BITS)

    def __call__(self, x):
        x = self.act(self.conv(x, "features.0"), "features.0")
        for stage, unit in UNITS:
            name, widens = f"features.{stage}.{unit}", stage > 1 and unit == 0
            y = self.act(self.conv(x, f"{name}.body.conv1", 1 + widens), f"{name}.body.conv1")
            y = self.conv(y, f"{name}.body.conv2")
            x = self.act(y + (self.conv(x, f"{name}.identity_conv", 2) if widens else x), name)
        return F.linear(
            x.mean((2, 3)), rows(self.entries["output.weight"]), self.entries["output.bias"]
        )


def saved(images):
    """Such a state dict with random weights, its ranges observed on these images."""
    torch.manual_seed(0)
    entries = {}

    def conv(name, inputs, outputs, size=3):
        entries[f"{name}.conv.weight"] = torch.randn(outputs, inputs, size, size) / 8
        for key in ("bn.bias", "bn.running_mean"):
            entries[f"{name}.{key}"] = torch.randn(outputs) / 4
        for key in ("bn.weight", "bn.running_var"):
            entries[f"{name}.{key}"] = torch.rand(outputs) + 0.5
        entries[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def act(name):
        for key, value in (("x_min", 0), ("x_max", 0), ("beta", 0.9), ("beta_t", 0.1)):
            entries[f"{name}.activ.1.{key}"] = torch.tensor([float(value)])

    conv("features.0", 3, 16)
    act("features.0")
    width = 16
    for stage, unit in UNITS:
        name, inputs, width = f"features.{stage}.{unit}", width, 8 * 2**stage
        conv(f"{name}.body.conv1", inputs, width)
        act(f"{name}.body.conv1")
        conv(f"{name}.body.conv2", width, width)
        if inputs < width:
            conv(f"{name}.identity_conv", inputs, width, 1)
        act(name)
    entries |= {"output.weight": torch.randn(10, 64) / 8, "output.bias": torch.randn(10)}
    network = Published(entries)
    network.observing = True
    network(images)
    return entries


@pytest.fixture(scope="module")
def bench_spec(tmp_path_factory):
    """CIFAR-10's bench, with random weights and two images a class."""
    folder, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for name in "abcdefghij":
        (folder / "test" / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "test" / name / f"{i}.png")
    torch.manual_seed(1)
    torch.save(get_model("resnet20_cifar10").state_dict(), folder / "teacher.pth")
    weights, data = str(folder / "teacher.pth"), str(folder / "test")
    return BenchSpec(bench="cifar10", weights=weights, data=data)


@pytest.fixture(scope="module")
def bench(bench_spec):
    return load_bench(bench_spec, progress=False)


@pytest.fixture(scope="module")
def images(bench):
    return bench.normalise(bench.images)


@pytest.fixture(scope="module")
def entries(images):
    return saved(images)


SETTINGS = released.settings_of("gdfq", BITS, BITS)


def read(path, bench, tensors):
    torch.save(tensors, path)
    return released.load_released(path, bench, SETTINGS)


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"epoch": 3, "state_dict": {
    f"module.{name}": t for name, t in d.items()}}], ids=["plain", "DDP's"])  # fmt: skip
def test_logits_are_those_of_the_published_arithmetic(bench, images, entries, tmp_path, wrap):
    student, notes = read(tmp_path / "model.pth", bench, wrap(entries))
    assert len(quantized_layers(student)) == 22
    assert len(quantized_activations(student)) == 19
    check_exportable(student)
    assert notes == [] or notes == ["the student's weights are those of 'state_dict: module.'"]
    in_double = {name: t.double() for name, t in entries.items()}
    expected = Published(in_double)(images.double())
    found = student.double()(images.double())  # in which no sum's order moves a rounding
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found, bench.teacher(images).double(), atol=0.1)


def test_a_run_s_folder(bench, bench_spec, images, entries, tmp_path):
    student, _ = read(tmp_path / "model.pth", bench, entries)
    run = Run.create(tmp_path / "run")
    released.keep(student, run, bench, bench_spec, SETTINGS, "model.pth")
    assert run.done
    assert (run.settings, run.spec) == (SETTINGS, bench_spec)
    assert run.entry("imported") == "model.pth"
    assert run.history().empty
    again, _ = load_student(run, bench)
    assert torch.equal(again(images).argmax(1), student(images).argmax(1))
    for name, t in student.state_dict().items():
        assert torch.equal(again.state_dict()[name], t)
    right = (student(images).argmax(1) == bench.labels).float().mean().item()
    assert run.entry("accuracy")["last"] == pytest.approx(100 * right)


def test_files_that_are_no_such_student_s(bench, entries, tmp_path):
    path, act = tmp_path / "model.pth", "features.2.1.activ.1"
    few = {n: t for n, t in entries.items() if n != f"{act}.x_max"}
    with pytest.raises(AktError, match=rf"does not fit the student: {act}.x_max is missing$"):
        read(path, bench, few)
    without = {n: t for n, t in entries.items() if not n.endswith(("beta", "beta_t", "tracked"))}
    read(path, bench, without)  # as ZeroQ's
    with pytest.raises(AktError, match="odd is not in the network"):
        read(path, bench, entries | {"odd": torch.zeros(1)})
    with pytest.raises(AktError, match=r"features\.0\.conv\.weight is missing"):
        read(path, bench, bench.teacher.state_dict())
    for ends, words in (((0, 0), "observed no image"), ((0, torch.nan), "observed no image"),
                        ((2, 3), "a grid without zero")):  # fmt: skip
        low, high = (torch.tensor([float(end)]) for end in ends)
        other = {f"{act}.x_min": low, f"{act}.x_max": high}
        with pytest.raises(AktError, match=f"^{act} .*{words}"):
            read(path, bench, entries | other)


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-0.7, 2), (0.1, 2), (-3, 0)])
def test_ranges_have_the_grid_that_they_have_there(low, high):
    x = torch.linspace(-4, 4, 1001)
    here = [torch.tensor(float(end)) for end in released.range_here(low, high, BITS, "it")]
    found = fake_quantize(x, *affine_parameters(*here, BITS), BITS)
    expected = published(x, torch.tensor(float(low)), torch.tensor(float(high)), BITS)
    assert torch.allclose(found, expected, atol=1e-6)


def test_weights_that_are_rounded_otherwise_are_said(bench, entries, tmp_path):
    weight = entries["features.0.conv.weight"].clone()
    weight[3] = weight[3].abs() + 1  # zero is not on its grid there
    found, expected = released.rounded_there(weight, BITS), rows(weight)
    assert torch.allclose(found, expected, atol=1e-6)
    _, (note,) = read(tmp_path / "m.pth", bench, entries | {"features.0.conv.weight": weight})
    assert re.match(
        r"\d+ weights are rounded otherwise than there, in features\.init_block\.", note
    )


def test_activations_that_such_a_file_has_no_range_of(functional_net):
    student = quantize_model(functional_net)
    with pytest.raises(AktError, match=r"relu: the activation is no nn\.ReLU and no nn\.ReLU6"):
        released._ranges_there(student, released.names_there(functional_net))


def test_names_are_numbered_in_sequences_alone():
    own = nn.Module()
    own.a, own.b = nn.Sequential(), nn.ModuleList([nn.ReLU()])
    own.a.add_module("x", nn.Sequential(nn.Linear(1, 1)))
    names = released.names_there(own)
    assert names == {"": "", "a": "a", "a.x": "a.0", "a.x.0": "a.0.0", "b": "b", "b.0": "b.0"}
