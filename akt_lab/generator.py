"""The conditional generator that GDFQ, AdaDFQ and their kin train in place of the lost data."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akt_lab.errors import UsageError

LATENT = 100


class UpsampledConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then this 3x3 convolution (padding 1), as one operation.

    Each output pixel sees only 2x2 distinct input pixels, so both together are a transposed
    convolution of stride 2 whose 4x4 kernel is the 3x3 one spread over 2x2 ones: 4/9 of the
    multiply-adds, the same values and gradients up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, 2H, 2W)."""
        w = F.pad(self.weight, (1, 1, 1, 1))
        w = w[..., :-1] + w[..., 1:]
        w = w[..., :-1, :] + w[..., 1:, :]  # (C_out, C_in, 4, 4)
        kernel = w.flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class LowPass(nn.Module):
    """A Gaussian low-pass filter of square images, as SynQ filters its own (ICLR 2025, eq. 4).

    F^-1(G * F(x)), G(u, v) = exp(-D(u, v)^2 / (2 D0^2)), D the distance of the frequency (u, v)
    from 0, in cycles an image. A Gaussian is separable, so it is x -> A x A^T with a circulant
    A (S, S): no Fourier transform a step, and exact. A constant image is left as it is.
    """

    matrix: Tensor

    def __init__(self, image_size: int, cutoff: float) -> None:
        """`cutoff` is D0, in cycles an image: the frequency whose amplitude falls to exp(-1/2)."""
        super().__init__()
        cycles = torch.arange(image_size // 2 + 1, dtype=torch.float64)
        kernel = torch.fft.irfft((-((cycles / cutoff) ** 2) / 2).exp(), n=image_size)
        place = torch.arange(image_size)
        matrix = kernel[(place[:, None] - place) % image_size].float()
        self.register_buffer("matrix", matrix, persistent=False)  # made anew from the settings

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, S, S) -> the same shape."""
        filtered = self.matrix @ images @ self.matrix  # it is symmetric
        return filtered.contiguous(memory_format=torch.channels_last)


class Generator(nn.Module):
    """Images of given classes from noise, in the teacher's normalised input space.

    h = Emb(y) * z; Linear -> 128 x S/4 x S/4; BN; up 2; Conv3(128) BN LReLU(.2); up 2;
    Conv3(64) BN LReLU(.2); Conv3(channels); Tanh; BN without affine (arXiv 2003.03603).
    The two hidden batch norms have the family's eps of 0.8. A `LowPass` may follow: teacher and
    student then see filtered images, and the generator learns through the filter.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        channels: int,
        latent: int = LATENT,
        low_pass: float = 0.0,
    ) -> None:
        """A generator of square images.

        Args:
            num_classes: number of classes to condition on.
            image_size: height and width S in pixels, divisible by 4.
            channels: of the images: 1 for grey, 3 for colour.
            latent: length of the noise.
            low_pass: the filter's cut-off in cycles an image; 0 for none.

        Raises:
            UsageError: if `image_size` is not a multiple of 4.
        """
        super().__init__()
        if image_size < 4 or image_size % 4:
            raise UsageError(
                f"the generator makes images whose size divides by 4, not {image_size}: "
                "resize them with --image-size"
            )
        self.num_classes, self.latent, self.start = num_classes, latent, image_size // 4
        self.embedding = nn.Embedding(num_classes, latent)
        self.linear = nn.Linear(latent, 128 * self.start**2)
        self.body = nn.Sequential(
            nn.BatchNorm2d(128),
            UpsampledConv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128, eps=0.8),
            nn.LeakyReLU(0.2, inplace=True),
            UpsampledConv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64, eps=0.8),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
            *([LowPass(image_size, low_pass)] if low_pass else []),
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Noise (B, latent) and classes (B,) -> images (B, channels, S, S)."""
        h = self.linear(self.embedding(y) * z)  # (B, 128 S/4 S/4)
        maps = h.view(-1, 128, self.start, self.start)
        return self.body(maps.contiguous(memory_format=torch.channels_last))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Standard normal noise (count, latent) and uniform classes (count,), on our device.

        Drawn on the CPU, so that a seed means the same images on every device.
        """
        device = self.linear.weight.device
        z, y = self.noise(count, rng)
        return z.to(device), y.to(device)

    def noise(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What `draw` draws, on the CPU."""
        z = torch.randn(count, self.latent, generator=rng)
        return z, torch.randint(self.num_classes, (count,), generator=rng)
