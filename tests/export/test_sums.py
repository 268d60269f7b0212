import pytest
import torch
from torch import nn

from akt_lab.errors import AktError
from akt_lab.export import OnnxRuntime, agreement, to_onnx, with_rounded_sums
from akt_lab.export.sums import SumQuantizer, affine
from akt_lab.quantizer import quantize_model, quantized_activations


@pytest.fixture
def images(digits):
    return digits.normalise(digits.images)


def sums_of(network):
    prefix = "sum_quantizers."
    return [
        n.removeprefix(prefix) for n, m in network.named_modules() if isinstance(m, SumQuantizer)
    ]


def test_where_it_rounds(digits, images, student_of):
    student = student_of(digits.teacher, images[:64])
    rounded = with_rounded_sums(student, images[:64])
    assert sums_of(rounded) == [
        "unit1_body_1", "unit1_body_4", "add",
        "unit2_body_1", "unit2_body_4", "unit2_skip_1", "add_1",
        "unit3_body_1", "unit3_body_4", "unit3_skip_1", "add_2",
    ]  # fmt: skip
    assert sums_of(student) == []  # which is left as it is
    kept = with_rounded_sums(student, images[:64], keep=["unit1.body.0"])
    assert "unit1_body_1" not in sums_of(kept)
    assert not any(
        module.observing for module in rounded.modules() if isinstance(module, SumQuantizer)
    )


def test_it_is_nearly_the_student(digits, images, student_of):
    student = student_of(digits.teacher, images[:64], 5)
    rounded = with_rounded_sums(student, images[:64])
    same = student(images).argmax(1) == rounded(images).argmax(1)
    assert same.float().mean() > 0.95
    assert not torch.equal(student(images), rounded(images))


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("storage", ["packed", "int4", "int8"])
def test_onnx_runtime_computes_it_in_integers(digits, images, student_of, bits, storage):
    student = student_of(digits.teacher, images[:64], bits)
    rounded = with_rounded_sums(student, images[:64])
    shape, labels = images.shape[1:], torch.zeros(len(images), dtype=torch.long)
    file = OnnxRuntime(to_onnx(rounded, shape, storage=storage))

    def with_roundings():
        return OnnxRuntime(to_onnx(rounded, shape, storage=storage, rounded=True))

    found = agreement(rounded, [(images, labels)], file, with_roundings)
    assert found.good
    whole = [name for name, each in file.layers(images[:1].contiguous().numpy()).items() if each]
    assert len(whole) == 8  # all but the first, which reads images, and the last, which reads means


def test_shifts_are_multiples_of_the_step(student_of):
    """Norms without weights; layers with a bias and without, a norm behind them or none."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(),
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(),
        nn.Conv2d(4, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    images = torch.randn(16, 3, 6, 6)
    with torch.no_grad():
        network.train()(images)
    student = student_of(network.eval(), images, 4)
    rounded = with_rounded_sums(student, images)
    assert sums_of(rounded) == ["_3", "_5", "_7"]
    with torch.no_grad():
        assert (student(images) - rounded(images)).norm() < 0.3 * student(images).norm()
    assert rounded.get_submodule("5").bias is None
    norm = rounded.get_submodule("3")
    scale, shift = affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    assert not torch.equal(shift, -norm.running_mean * scale)
    file = OnnxRuntime(to_onnx(rounded, (3, 6, 6)))

    def with_roundings():
        return OnnxRuntime(to_onnx(rounded, (3, 6, 6), rounded=True))

    labels = torch.zeros(16, dtype=torch.long)
    assert agreement(rounded, [(images, labels)], file, with_roundings).good


def test_nothing_to_round():
    network = quantize_model(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 3, 3)
    assert quantized_activations(network) == []
    with pytest.raises(AktError, match="no layer reads a rounded activation"):
        with_rounded_sums(network, torch.randn(2, 4))
