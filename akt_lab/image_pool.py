"""Images that are there, drawn from as from a generator: optimised once (ZeroQ, HAST), or real."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.errors import AktError
from akt_lab.files import MADE_AGAIN, claim, damaged, fingerprint, load_tensors, save_tensors
from akt_lab.graph import capture_bn_inputs
from akt_lab.losses import Terms, total

CHUNK = 256  # images optimised together: their statistics are matched as one batch
LEARNING_RATE = 0.5  # Adam's, ZeroQ's
SMALLEST_CROP = 0.5  # of the area


class ImagePool(nn.Module):
    """A fixed set of images that stands where a `Generator` stands: `draw`, then call.

    Attributes:
        images: (N, channels, S, S), in the teacher's normalised input space.
        labels: (N,).
        held_out: (M, channels, S, S): images for choosing without labels.
    """

    images: Tensor
    labels: Tensor
    held_out: Tensor

    def __init__(self, images: Tensor, labels: Tensor, augment: bool, held_out: int = 0) -> None:
        """See `load_pool`.

        Args:
            images: (N + held_out, channels, S, S).
            labels: their classes.
            augment: whether each drawn image is cropped, resized and flipped at random.
            held_out: of the images, how many at the end are never drawn.
        """
        super().__init__()
        self.augment, drawn = augment, len(labels) - held_out
        self.register_buffer("images", images[:drawn], persistent=False)
        self.register_buffer("labels", labels[:drawn], persistent=False)
        self.register_buffer("held_out", images[drawn:], persistent=False)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (count, channels, S, S) and their classes (count,), with replacement."""
        chosen = torch.randint(len(self.labels), (count,), generator=rng).to(self.images.device)
        images = self.images[chosen]
        return (crop_and_flip(images, rng) if self.augment else images), self.labels[chosen]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images as they were drawn."""
        return images


class RealImages(ImagePool):
    """Real training images, kept as bytes on the host and normalised as they are drawn.

    Those for choosing without labels are held out of an order that is drawn once: a folder's come
    class by class.
    """

    def __init__(
        self,
        images: Any,
        labels: Tensor,
        augment: bool,
        held_out: int,
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        """See `ImagePool`.

        Args:
            images: bytes (N + held_out, channels, S, S), or what decodes them when it is indexed.
            labels: their classes.
            augment: whether each drawn image is cropped, resized and flipped at random.
            held_out: how many of the images are never drawn.
            normalise: bytes (B, channels, S, S) -> the teacher's input space.
        """
        nn.Module.__init__(self)  # the images are not moved to the device
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.images, self.augment, self.normalise = images, augment, normalise
        self.drawn = order[held_out:]
        self.register_buffer("labels", labels[self.drawn], persistent=False)
        held = normalise(images[order[:held_out].tolist()])
        self.register_buffer("held_out", held, persistent=False)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (count, channels, S, S) and their classes (count,), with replacement."""
        chosen = torch.randint(len(self.drawn), (count,), generator=rng)
        labels = self.labels[chosen.to(self.labels.device)]
        images = self.normalise(self.images[self.drawn[chosen].tolist()].to(labels.device))
        return (crop_and_flip(images, rng) if self.augment else images), labels


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
    make_bar: Callable[..., Any] = tqdm,
) -> Tensor:
    """The optimised images of these very arguments: from `folder` where they lie there, else made.

    They are kept 256 at a time, so that what was stopped goes on, and made by one process only.

    Args:
        teacher: frozen, in eval mode.
        terms: (t, None, y, statistics) -> terms of the images' loss.
        labels: the images' classes, (N,).
        shape: channels, S, S of an image.
        steps: of Adam.
        seed: of the noise that the images start from.
        folder: the cache.
        progress: whether to show a bar.
        make_bar: what makes it; called and used as tqdm.

    Returns:
        (N, channels, S, S).

    Raises:
        DamagedError: if what lies there is not what was kept.
    """
    tensors = {"labels": labels, **teacher.state_dict()}
    mine = folder / f"pool-{fingerprint(tensors, (terms.__name__, *shape, steps, seed))}"
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), *shape, generator=rng).to(labels.device)
    chunks = list(zip(noise.split(CHUNK), labels.split(CHUNK), strict=True))
    with claim(mine):
        files = [mine / f"{number}.safetensors" for number in range(len(chunks))]
        if missing := [n for n, file in enumerate(files) if not file.exists()]:
            total_steps, there = len(chunks) * steps, (len(chunks) - len(missing)) * steps
            made = {"total": total_steps, "initial": there, "unit": "step"}
            with make_bar(**made, disable=not progress) as bar:
                bar.set_description("images")
                for n in missing:
                    images = optimise(teacher, terms, *chunks[n], steps, bar)
                    save_tensors(files[n], {"images": images}, {})
    return torch.cat([kept_images(*each) for each in zip(files, noise.split(CHUNK), strict=True)])


def kept_images(file: Path, like: Tensor) -> Tensor:
    """A file's images, where those of `like`'s shape, type and device were kept.

    Raises:
        DamagedError: if they are others, or not what was kept.
    """
    images = load_tensors(file, MADE_AGAIN)[0].get("images")
    if images is None or images.shape != like.shape or images.dtype != like.dtype:
        raise damaged(file, "it holds no such images", MADE_AGAIN)
    return images.to(like.device)


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
