import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from akt_lab.errors import AktError
from akt_lab.export import accounted_bytes, codes_of, entropy
from akt_lab.export.weights import bit_planes, packed
from akt_lab.quantizer import effective_bits, quantize_model


def layer_of(bits, shift=0.0, seed=0, ranges="minmax"):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5, 2))
    with torch.no_grad():
        network[0].weight.add_(shift)
    return quantize_model(network, bits, 3, weight_ranges=ranges).get_submodule("0")


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(2, 8), shift=st.floats(-0.4, 0.4), seed=st.integers(0, 99))
def test_codes_are_the_weight(bits, shift, seed):
    layer = layer_of(bits, shift, seed)
    made = codes_of(layer)
    assert torch.equal(made.weight(), layer.quantized_weight().detach())
    assert made.fits(8) or bits == 8
    assert made.fits(4) or bits > 3
    q = made.codes + made.zero_point.view(-1, 1, 1, 1)
    assert 0 <= q.min() <= q.max() <= 2**bits - 1


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_norm_s_scale_goes_into_the_grid(bits):
    made = codes_of(layer_of(bits, 0.1))
    factor = torch.tensor([2.0, -0.5, 0.0, 1.0, -3.0])
    scaled = made.times(factor)
    expected = made.weight() * factor.view(-1, 1, 1, 1)
    assert torch.allclose(scaled.weight(), expected, rtol=1e-6, atol=0)
    assert (scaled.scale > 0).all()
    q = scaled.codes + scaled.zero_point.view(-1, 1, 1, 1)
    assert 0 <= q.min() <= q.max() <= 2**bits - 1  # on a grid of as many bits


@pytest.mark.parametrize("ranges", ["pnorm", "learned"])
def test_ranges_that_are_narrower_than_the_weight(ranges):
    layer = layer_of(3, ranges=ranges)
    layer.choose()
    if ranges == "learned":
        with torch.no_grad():
            layer.log_scale.sub_(0.3)
    expected = layer.quantized_weight().detach()
    assert torch.allclose(codes_of(layer).weight(), expected, rtol=1e-6, atol=0)


def test_what_is_no_number():
    layer = layer_of(3)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(AktError, match="not a number"):
        codes_of(layer)


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=9))
def test_two_in_a_byte(values):
    data = packed(torch.tensor(values, dtype=torch.int32))
    assert len(data) == -(-len(values) // 2)
    back = [half for byte in data for half in (byte & 15, byte >> 4)]
    assert [n - 16 if n > 7 else n for n in back][: len(values)] == values


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=20))
def test_each_in_its_bits(bits, values):
    values = [v % 2**bits for v in values]
    planes = bit_planes(torch.tensor(values), bits).tolist()
    assert [len(plane) for plane in planes] == [-(-len(values) // 8)] * bits
    for n, value in enumerate(values):
        assert sum((plane[n // 8] >> n % 8 & 1) << b for b, plane in enumerate(planes)) == value


def test_entropy():
    assert entropy(torch.zeros(5)) == 0
    assert entropy(torch.tensor([])) == 0
    assert entropy(torch.arange(8)) == pytest.approx(3)
    assert entropy(torch.tensor([0, 0, 0, 1])) == pytest.approx(0.8112781)


def test_bytes_are_those_of_the_effective_bits():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    ).eval()  # fmt: skip
    student, images = quantize_model(network, 3, 5), torch.randn(2, 3, 6, 6)
    student(images)
    weights = 4 * 27 + 640
    low, _ = effective_bits(student, images)
    floats = 4 + 4 + 4 + 10  # biases, and a scale and shift a channel
    assert accounted_bytes(student) == pytest.approx((weights * low + 37 + 32 * floats) / 8)
    assert accounted_bytes(student, coded=True) < accounted_bytes(student)
    learned = quantize_model(network, 3, 5, ranges="learned", weight_ranges="learned")
    assert accounted_bytes(learned) == pytest.approx(accounted_bytes(student))
