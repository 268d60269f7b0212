"""How close a student is to its teacher on images without labels, and images to compare methods on.

A run judges itself on images of its own generator, or of its own pool: that orders the students of
one method. Those of different methods are judged on images that none of them made: the common pool.
"""

import torch
from torch import Tensor, nn

from akt_lab.benches import Bench
from akt_lab.benches.bench import EVALUATION_PIXELS, cache_folder
from akt_lab.graph import trace
from akt_lab.image_pool import load_pool
from akt_lab.losses import common_image_terms, kd_loss
from akt_lab.speed import speed_up

COMMON, COMMON_STEPS = 256, 500  # images; steps of Adam for them
COMMON_SEED = 241219125  # of the noise that they start from: no run's, as they are no run's images


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

    256 images, their pixels optimised in 500 steps of `common_image_terms`, of all classes equally
    often (where there are more classes than images, of evenly spaced ones). The teacher and their
    size decide them, and nothing of any run. They are made once, and kept in the cache; made anew,
    on another machine say, they differ by what rounding grows to in 500 steps.

    Args:
        bench: its teacher and the size of its images are read, and no image.
        progress: whether to show a bar while they are made.

    Returns:
        (256, channels, S, S), in the teacher's normalised input space.

    Raises:
        AktError: if the teacher has no batch norm.
        DamagedError: if what lies in the cache is not what was kept.
    """
    teacher = trace(bench.teacher).requires_grad_(False)
    speed_up(teacher)
    teacher.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    labels = (torch.arange(COMMON) * bench.num_classes // COMMON).to(bench.device)
    shape, folder = (bench.channels, bench.image_size, bench.image_size), cache_folder() / "pools"
    how = COMMON_STEPS, COMMON_SEED, folder, progress
    return load_pool(teacher, common_image_terms, labels, shape, *how)


def common_kl(student: nn.Module, teacher: nn.Module, images: Tensor) -> dict[str, float]:
    """`agreement` on the common pool's images, by the names under which it is reported."""
    kl, same = agreement(student, teacher, images)
    return {"common_kl": kl, "common_agreement": same}
