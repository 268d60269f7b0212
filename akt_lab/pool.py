"""Images whose pixels were optimised once (ZeroQ, HAST), drawn from as from a generator."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.capture import capture_bn_inputs
from akt_lab.errors import AktError
from akt_lab.losses import Terms, total
from akt_lab.runs import load_tensors, save_tensors

CHUNK = 256  # images optimised together: their statistics are matched as one batch
LEARNING_RATE = 0.5  # Adam's, ZeroQ's
SMALLEST_CROP = 0.5  # of the area


class ImagePool(nn.Module):
    """A fixed set of images that stands where a `Generator` stands: `draw`, then call.

    Attributes:
        images: (N, channels, S, S), in the teacher's normalised input space.
        labels: (N,).
    """

    images: Tensor
    labels: Tensor

    def __init__(self, images: Tensor, labels: Tensor, augment: bool) -> None:
        """`augment`: whether each drawn image is cropped, resized and flipped at random."""
        super().__init__()
        self.augment = augment
        self.register_buffer("images", images, persistent=False)
        self.register_buffer("labels", labels, persistent=False)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (count, channels, S, S) and their classes (count,), with replacement."""
        chosen = torch.randint(len(self.labels), (count,), generator=rng).to(self.images.device)
        images = self.images[chosen]
        return (crop_and_flip(images, rng) if self.augment else images), self.labels[chosen]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images as they were drawn."""
        return images


def crop_and_flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image cropped to 1/2 to all of its area, resized to what it was, flipped or not."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    side = uniform(SMALLEST_CROP, 1).sqrt()
    aspect = uniform(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    width, height = (side * aspect).clamp(max=1), (side / aspect).clamp(max=1)
    flip = 1 - 2 * torch.randint(2, (count,), generator=rng)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width * flip, uniform(-1, 1) * (1 - width)
    theta[:, 1, 1], theta[:, 1, 2] = height, uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def load_pool(
    teacher: nn.Module,
    terms: Callable[..., Terms],
    labels: Tensor,
    shape: tuple[int, int, int],
    steps: int,
    seed: int,
    folder: Path,
    progress: bool = True,
) -> Tensor:
    """The optimised images of these very arguments: from `folder` if they lie there, else made.

    Args:
        teacher: frozen, in eval mode.
        terms: (t, None, y, statistics) -> terms of the images' loss.
        labels: the images' classes, (N,).
        shape: channels, S, S of an image.
        steps: of Adam.
        seed: of the noise that the images start from.
        folder: the cache.
        progress: whether to show a bar.

    Returns:
        (N, channels, S, S).
    """
    path = folder / f"pool-{_fingerprint(teacher, terms, labels, shape, steps, seed)}.safetensors"
    if path.exists():
        return load_tensors(path)[0]["images"]
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), *shape, generator=rng).to(labels.device)
    chunks = list(zip(noise.split(CHUNK), labels.split(CHUNK), strict=True))
    bar = tqdm(total=len(chunks) * steps, unit="step", desc="images", disable=not progress)
    with bar:
        images = torch.cat([optimise(teacher, terms, x, y, steps, bar) for x, y in chunks])
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"images": images.contiguous()}, {})
    return images


def optimise(
    teacher: nn.Module, terms: Callable[..., Terms], x: Tensor, y: Tensor, steps: int, bar: Any
) -> Tensor:
    """Images (B, channels, S, S) after `steps` of Adam on their pixels, from x.

    Raises:
        AktError: if the loss is not finite.
    """
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    optimizer = torch.optim.Adam([x], LEARNING_RATE, betas=(0.5, 0.9))
    slower = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=max(1, steps // 10))
    for _ in range(steps):
        with capture_bn_inputs(teacher) as statistics:
            t = teacher(x)
        loss = total(terms(t, None, y, statistics))
        (x.grad,) = torch.autograd.grad(loss, x)
        optimizer.step()
        slower.step(loss.item())
        bar.update()
    if not math.isfinite(loss.item()):
        raise AktError("the images' loss is not finite: does the teacher give finite logits?")
    return x.detach()


def _fingerprint(
    teacher: nn.Module, terms: Callable[..., Terms], labels: Tensor, *rest: Any
) -> str:
    digest = hashlib.sha256(repr((terms.__name__, rest)).encode())
    for tensor in (labels, *teacher.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
