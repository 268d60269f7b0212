import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akt_lab.errors import UsageError
from akt_lab.generator import Generator, UpsampledConv2d


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3), (28, 1), (64, 3), (4, 2)])
def test_images(size, channels):
    generator = Generator(7, size, channels)
    images = generator(*generator.draw(5, torch.Generator().manual_seed(0)))
    assert images.shape == (5, channels, size, size)
    assert images.mean((0, 2, 3)).abs().max() < 1e-4  # the last batch norm: zero mean, unit spread
    assert (images.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-2


def test_sizes_that_do_not_divide():
    with pytest.raises(UsageError, match="divides by 4, not 30"):
        Generator(10, 30, 3)


def test_the_family_s_details():
    generator = Generator(10, 32, 3)
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [n.eps for n in norms] == [1e-5, 0.8, 0.8, 1e-5]
    assert [n.affine for n in norms] == [True, True, True, False]
    assert generator.latent == 100
    assert {m.negative_slope for m in generator.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_class_and_noise_both_matter():
    generator = Generator(10, 16, 1).eval()
    z, y = generator.draw(4, torch.Generator().manual_seed(0))
    images = generator(z, y)
    assert not torch.allclose(images, generator(z, (y + 1) % 10))
    assert not torch.allclose(images, generator(z + 1, y))


def test_draws_are_seeded():
    generator = Generator(10, 16, 1)
    one = generator.draw(64, torch.Generator().manual_seed(3))
    two = generator.draw(64, torch.Generator().manual_seed(3))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert len(one[1].unique()) > 5


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_upsampled_convolution_equals_upsample_then_convolve(size, bias):
    torch.manual_seed(0)
    layer = UpsampledConv2d(5, 4, 3, padding=1, bias=bias).double()
    x = torch.randn(2, 5, size, size + 1, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    ours = layer(x)
    assert torch.allclose(ours, plain, atol=1e-12)
    wanted = [x, *layer.parameters()]
    came = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, wanted, came),
        torch.autograd.grad(plain, wanted, came),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-12)
