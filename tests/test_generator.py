import pytest
import torch
import torch.nn.functional as F
from torch import nn

from akt_lab.errors import UsageError
from akt_lab.generator import Generator, LowPass, UpsampledConv2d


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


# ---- the low-pass filter ------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3), (15, 3), (1, 1)])
def test_the_filter_is_a_gaussian_in_frequency(size, channels):
    """Equation 4 of SynQ as it stands: both Fourier transforms, distances from the centre."""
    x = torch.randn(4, channels, size, size, dtype=torch.float64)
    u = torch.arange(size, dtype=torch.float64) - size // 2
    gaussian = (-(u[:, None] ** 2 + u**2) / (2 * 5.0**2)).exp()
    spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    filtered = torch.fft.ifft2(torch.fft.ifftshift(gaussian * spectrum, dim=(-2, -1)))
    assert filtered.imag.abs().max() < 1e-12
    found = LowPass(size, 5.0).double()(x)
    assert torch.allclose(found, filtered.real, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_cut_off_is_in_cycles_an_image():
    place = torch.arange(16) / 16
    for cycles in range(1, 8):
        wave = (2 * torch.pi * cycles * place).cos().expand(1, 1, 16, 16)
        found = LowPass(16, 3.0)(wave)
        expected = wave * torch.tensor(-(cycles**2) / 18.0).exp()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cutoff", [1e-300, 1e-3, 1e6])
def test_the_mean_of_an_image_stays_whatever_the_cut_off(cutoff):
    x = torch.randn(2, 3, 8, 8)
    found = LowPass(8, cutoff)(x)
    torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)), rtol=0, atol=1e-6)
    if cutoff < 1:  # nothing else does
        assert (found - x.mean((2, 3), keepdim=True)).abs().max() < 1e-6
    else:
        torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_a_generator_filters_what_it_makes_and_learns_through_it():
    plain, filtered = Generator(10, 16, 1).eval(), Generator(10, 16, 1, low_pass=3.0).eval()
    filtered.load_state_dict(plain.state_dict())  # the filter is none of its weights
    noise = plain.draw(4, torch.Generator().manual_seed(0))
    images = filtered(*noise)
    assert torch.equal(images, LowPass(16, 3.0)(plain(*noise)))
    assert images.var() < 0.5 * plain(*noise).var()
    gradients = torch.autograd.grad(images.square().sum(), list(filtered.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)
