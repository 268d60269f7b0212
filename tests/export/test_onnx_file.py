import json
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from akt_lab.errors import AktError, UsageError
from akt_lab.export import STORAGES, OnnxRuntime, accounted_bytes, check_target, here, to_onnx
from akt_lab.graph import capture_maps, residual_bodies
from akt_lab.quantizer import effective_bits, quantize_model
from akt_lab.quantizer.layers import QuantizedWeight


@pytest.fixture
def images(digits):
    return digits.normalise(digits.images)


MIXED = {"*": 3, "unit2.body.0": 2, "unit3.body.3": 5, "classifier": 8}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, MIXED], ids=str)
def test_students_of_digits(digits, images, student_of, agrees, bits, storage):
    student = student_of(digits.teacher, images[:64], bits, 4 if bits == MIXED else None)
    for found in agrees(student, images, storage=storage):
        assert found.classes == 0
        assert found.at_ties < 0.1 * found.images
        assert bits == 8 or found.difference < 1e-4 or found.at_ties


@pytest.mark.parametrize("ranges", ["ema", "ema_legacy", "minmax", "pnorm", "learned"])
def test_every_static_rule(digits, images, student_of, agrees, ranges):
    weights = ranges if ranges in ("pnorm", "learned") else "minmax"
    student = student_of(digits.teacher, images[:64], 3, ranges=ranges, weight_ranges=weights)
    assert all(found.classes == 0 for found in agrees(student, images))


@pytest.mark.parametrize("network", [mobilenet_v2, resnet18])
def test_depthwise_and_residual_networks(network, student_of, agrees):
    torch.manual_seed(0)
    teacher = network(num_classes=10)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(3):  # statistics, or the last maps of random weights vanish
            teacher.train()(images)
    student = student_of(teacher.eval(), images, 4)
    agrees(student, images, storage="int4")
    agrees(teacher, images)
    few = student_of(teacher, images, 3)
    agrees(few, images, storage="packed")
    assert len(to_onnx(few, (3, 32, 32), storage="packed")) < 1.1 * accounted_bytes(few)
    for storage, bits in (("int4", 4), ("packed", 4), ("int8", 8)):
        size = len(to_onnx(student, (3, 32, 32), storage=storage))
        layers = [m for m in student.modules() if isinstance(m, QuantizedWeight)]
        held = sum(m.weight.numel() * bits / 8 + 4 * len(m.weight) for m in layers)
        floats = 4 * sum(len(m.weight) for m in layers)  # a shift a channel
        assert held < size < 1.1 * (held + floats)


def test_any_number_of_images_and_what_goes_with_them(digits, images, student_of):
    student = student_of(digits.teacher, images[:64])
    about = {"classes": json.dumps(digits.classes), "bench": "digits"}
    content = to_onnx(student, images.shape[1:], metadata=about)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert {each.key: each.value for each in model.metadata_props} == about
    runtime = OnnxRuntime(content)
    for count in (1, 5, 64):
        assert runtime.run(images[:count].contiguous().numpy())["logits"].shape == (count, 10)


def test_weights_are_whole_numbers_without_zero_points(digits, images, student_of):
    student = student_of(digits.teacher, images[:64])
    for storage, kind in (("int8", onnx.TensorProto.INT8), ("int4", onnx.TensorProto.INT4)):
        graph = onnx.load_from_string(to_onnx(student, images.shape[1:], storage=storage)).graph
        held = [each for each in graph.initializer if each.data_type == kind]
        assert len(held) == 10  # a layer each
        weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and len(n.input) == 2]
        assert len(weights) == 10
        for tensor in held:
            assert np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= 7
    low, _ = effective_bits(student, images[:1])
    assert low < 4


def test_maps_go_with_it(digits, images, student_of):
    student = student_of(digits.teacher, images[:64])
    names = residual_bodies(student)
    with torch.no_grad(), capture_maps(student, names) as maps:
        student(images[:4])
    for runtime in here():
        file = runtime(to_onnx(student, images.shape[1:], maps=names))
        got = file.run(images[:4].contiguous().numpy())
        for name in names:
            assert np.allclose(got[f"map/{name}"], maps[name], rtol=1e-3, atol=1e-4)


# ---- refusals ----


def test_ranges_that_no_file_can_hold(digits, images):
    shape = images.shape[1:]
    student = quantize_model(digits.teacher, ranges="per_channel_dynamic")
    with pytest.raises(AktError, match=r"live ranges \(GranQ\).*static"):
        to_onnx(student, shape)
    student = quantize_model(digits.teacher)
    with pytest.raises(AktError, match="observed no batch"):
        to_onnx(student, shape)
    student(images[:4])
    with pytest.raises(AktError, match="freeze the ranges"):
        to_onnx(student, shape)
    student(images[:4] * torch.nan)
    with pytest.raises(AktError, match="observed a NaN"):
        to_onnx(student, shape)


def test_what_has_no_form_is_named(student_of):
    class Rolls(nn.Sequential):
        def forward(self, x):
            return super().forward(x.roll(1, 2))

    network = Rolls(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()
    student = student_of(network, torch.randn(4, 1, 6, 6))
    with pytest.raises(AktError, match=r"^roll: roll has no ONNX form here$"):
        to_onnx(student, (1, 6, 6))


def test_names_and_types(digits, images, student_of):
    student = student_of(digits.teacher, images[:8])
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        to_onnx(student, images.shape[1:], storage="int5")
    with pytest.raises(UsageError, match="unknown layer"):
        to_onnx(student, images.shape[1:], maps=["unit9"])
    with pytest.raises(AktError, match=r"is torch.float64: only float32"):
        to_onnx(student.double(), images.shape[1:])


def test_without_onnx(digits, images, student_of, monkeypatch):
    student = student_of(digits.teacher, images[:8])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(AktError, match=r"onnx is not installed: pip install -e '.\[export\]'"):
        to_onnx(student, images.shape[1:])


def test_where_a_file_can_be(tmp_path):
    check_target(tmp_path / "new.onnx")
    (tmp_path / "old.onnx").touch()
    with pytest.raises(AktError, match="exists already"):
        check_target(tmp_path / "old.onnx")
    with pytest.raises(AktError, match="there is no folder"):
        check_target(tmp_path / "none" / "new.onnx")
