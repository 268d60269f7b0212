"""What a run begins with, looked at and told before minutes of training."""

import math
import os
import sys

import torch
from torch import Tensor
from tqdm.auto import tqdm

from akt_lab.benches import Bench
from akt_lab.benches.fit import check_logits
from akt_lab.errors import AktError
from akt_lab.generator import Generator
from akt_lab.methods import get_method
from akt_lab.runs.training import evaluate
from akt_lab.settings import Settings

SHOWN = 3  # classes, besides the last


def judge(bench: Bench, progress: bool = False) -> float:
    """The teacher's accuracy, in percent; warns where it is that of guessing.

    Raises:
        AktError: logits that are not finite, or are probabilities.
    """
    low, high = [], []

    def look(logits: Tensor) -> None:
        check_logits(logits)
        low.append(logits.amin(0))
        high.append(logits.amax(0))

    accuracy = evaluate(bench.teacher, bench, progress, look)
    chance = 1 / bench.num_classes
    spread = min(chance / 2, 2 * math.sqrt(chance * (1 - chance) / len(bench.images)))
    warning = ""
    if len(bench.images) > 1 and torch.equal(torch.stack(low).amin(0), torch.stack(high).amax(0)):
        warning = "the teacher's logits are the same for every image"
    elif bench.num_classes > 1 and accuracy <= 100 * (chance + spread):
        warning = f"the teacher's {accuracy:.2f}% are those of guessing among {bench.num_classes}"
    if warning and progress:
        say(f"{bench.name}: {warning}: look at the order of classes, --mean and --std, "
            "--image-size, --weights")  # fmt: skip
    return accuracy


def about(bench: Bench, accuracy: float) -> list[str]:
    """Teacher, images and classes, a line each."""
    colour = "grey" if bench.channels == 1 else "colour"
    scale = (" ".join(f"{v:.4g}" for v in values) for values in (bench.mean, bench.std))
    size = f"{bench.image_size} x {bench.image_size}"
    names = [f"{number} {name}" for number, name in enumerate(bench.classes)]
    if len(names) > SHOWN + 2:
        names[SHOWN:-1] = ["…"]
    return [
        f"teacher   {bench.name}, right on {accuracy:.2f}% of {len(bench.images)} images",
        f"images    {size} in {colour}, mean {next(scale)}, std {next(scale)}",
        f"classes   {bench.num_classes}: {', '.join(names)}",
    ]


def check_sizes(bench: Bench, settings: Settings) -> None:
    """Refuse sizes that the device has no memory for, before the system ends what fills it.

    Raises:
        AktError: if images of a step, and what makes them, are larger already than all of it; or a
            single number is all that the generator's first batch norm would see of a channel.
    """
    method, size = get_method(settings.method), bench.image_size
    pixels = bench.channels * size**2
    needed = 3 * settings.batch_size * pixels  # noise or a view, images, their gradient
    if method.pool:
        needed += settings.pool * pixels
    else:
        with torch.device("meta"):
            generator = Generator(bench.num_classes, size, bench.channels)
        needed += 4 * sum(p.numel() for p in generator.parameters())  # gradient, Adam's two
        if settings.batch_size * generator.start**2 == 1:
            raise AktError(f"one image of {size} x {size} a step is too little: --batch-size 2")
    if 4 * needed > (memory := _memory(bench.device)):
        raise AktError(
            f"not enough memory: images of {size} x {size}, {settings.batch_size} a step, "
            f"and what makes them take {needed / 2.5e8:.0f} GB at least, and {bench.device} has "
            f"{memory / 1e9:.0f} GB: choose a smaller --batch-size, --image-size or --pool"
        )


def _memory(device: torch.device) -> float:
    """Of a device, in bytes; infinite where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def say(line: str) -> None:
    """On standard error, above progress bars; a name in it may hold the end of a line."""
    tqdm.write("\\n".join(line.splitlines()), file=sys.stderr)
