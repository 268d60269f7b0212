"""How close a student is to its teacher on images without labels, and images to compare methods on.

A run judges itself on images of its own generator, or of its own pool: that orders the students of
one method. Those of different methods are judged on images that none of them made: the common pool.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.benches import Bench
from akt_lab.benches.bench import EVALUATION_PIXELS, cache_folder
from akt_lab.errors import AktError
from akt_lab.files import claim, fingerprint, save_tensors
from akt_lab.generator import Generator
from akt_lab.graph import capture_bn_inputs, trace
from akt_lab.image_pool import kept_images
from akt_lab.losses import gdfq_generator_terms, kd_loss, total
from akt_lab.speed import speed_up
from akt_lab.step import apply_gradients

COMMON, GENERATORS = 256, 4  # images, and what makes them
COMMON_STEPS, COMMON_BATCH = 300, 16  # of each generator, and images a step
COMMON_SEED = 241219125  # of the first generator: no run's, as they are no run's images


@torch.inference_mode()
def agreement(student: nn.Module, teacher: nn.Module, images: Tensor) -> tuple[float, float]:
    """Mean KL(teacher || student) at temperature 1, in nats, and top-1 agreement, in percent.

    Args:
        student: in eval mode.
        teacher: in eval mode.
        images: (N, channels, S, S), in the teacher's normalised input space.
    """
    parts = images.split(at_once(images.shape[-1]))
    s, t = (torch.cat([network(part) for part in parts]) for network in (student, teacher))
    kl = kd_loss(s, t, temperature=1.0).item()
    return kl, 100 * (s.argmax(1) == t.argmax(1)).float().mean().item()


def at_once(size: int) -> int:
    """How many images of `size` x `size` a network runs on: all of the hold-out up to 84 pixels."""
    return max(1, EVALUATION_PIXELS // size**2)


def common_pool(bench: Bench, progress: bool = True) -> Tensor:
    """The images on which the students of every method are judged alike, without labels.

    256 images, a quarter from each of four generators, which have learned GDFQ's loss for 300
    steps of 16 images beside no student. Four, because the ranges of a student that were chosen on
    one generator's images fit those better than another's. Images whose pixels were optimised one
    by one, HAST's way, ordered students worse: benchmarks/README.md.

    The teacher and the images' size decide them, and nothing of any run. They are made once, and
    kept in the cache; made anew, on another machine say, they differ by what rounding grows to.

    Args:
        bench: its teacher and the size of its images are read, and no image.
        progress: whether to show a bar while they are made.

    Returns:
        (256, channels, S, S), in the teacher's normalised input space.

    Raises:
        AktError: if the teacher has no batch norm, or its images' size does not divide by 4.
        DamagedError: if what lies in the cache is not what was kept.
    """
    teacher = trace(bench.teacher).requires_grad_(False)
    speed_up(teacher)
    teacher.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    shape = (COMMON, bench.channels, bench.image_size, bench.image_size)
    how = ("common", *shape, GENERATORS, COMMON_STEPS, COMMON_BATCH, COMMON_SEED)
    mine = cache_folder() / "pools" / f"pool-{fingerprint(teacher.state_dict(), how)}"
    with claim(mine):
        file = mine / "0.safetensors"
        if not file.exists():
            with tqdm(total=GENERATORS * COMMON_STEPS, unit="step", disable=not progress) as bar:
                bar.set_description("images")
                parts = [_images_of_one(teacher, bench, n, bar) for n in range(GENERATORS)]
            save_tensors(file, {"images": torch.cat(parts)}, {})
    return kept_images(file, torch.empty(shape, device=bench.device))


def _images_of_one(teacher: nn.Module, bench: Bench, number: int, bar: Any) -> Tensor:
    """The images of one of the common pool's generators, of all classes as often as can be.

    Where there are more classes than images, of evenly spaced ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(COMMON_SEED + number)
        generator = Generator(bench.num_classes, bench.image_size, bench.channels)
    generator.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    weights = list(generator.parameters())
    optimizer = torch.optim.Adam(weights, 1e-3, betas=(0.5, 0.999), fused=True)
    rng = torch.Generator().manual_seed(COMMON_SEED + number)
    for _ in range(COMMON_STEPS):
        z, y = generator.draw(COMMON_BATCH, rng)
        with capture_bn_inputs(teacher) as statistics:
            t = teacher(generator(z, y))
        loss = total(gdfq_generator_terms(t, None, y, statistics))
        apply_gradients(optimizer, torch.autograd.grad(loss, weights))
        bar.update()
    if not math.isfinite(loss.item()):
        raise AktError("the images' loss is not finite: does the teacher give finite logits?")
    labels = torch.arange(COMMON)[number::GENERATORS] * bench.num_classes // COMMON
    z, y = generator.draw(len(labels), rng)[0], labels.to(bench.device)
    generator.eval()
    with torch.no_grad():
        parts = zip(z.split(COMMON_BATCH), y.split(COMMON_BATCH), strict=True)
        return torch.cat([generator(*part) for part in parts])


def common_kl(student: nn.Module, teacher: nn.Module, images: Tensor) -> dict[str, float]:
    """`agreement` on the common pool's images, by the names under which it is reported."""
    kl, same = agreement(student, teacher, images)
    return {"common_kl": kl, "common_agreement": same}
