"""What a run begins with, looked at and told before minutes of training."""

import math
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.benches import Bench
from akt_lab.errors import AktError, one_line
from akt_lab.generator import Generator
from akt_lab.methods import get_method
from akt_lab.runs.networks import Found, make_networks
from akt_lab.settings import Settings

SHOWN = 3  # of many names


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


def about_networks(networks: Found, settings: Settings) -> list[str]:
    """Layers, activations, feature maps and batch norms, in two lines."""
    matched, norms = networks.batch_norms
    count = networks.equalized
    equalized = f"; channels of {count} stream{'s' * (count > 1)} equalized" if count else ""
    return [
        f"networks  {len(networks.layers)} layers and {len(networks.activations)} activations "
        f"quantized, {settings.bits}; batch norms matched: {matched} of {norms}{equalized}",
        f"maps      {len(networks.maps)} distilled: {_few(networks.maps)}"
        if networks.maps
        else f"maps      none distilled by {settings.method}",
    ]


def in_float(name: str, networks: Found) -> list[str]:
    """What is not quantized, of the bench of this name; nothing where all is."""
    lines = []
    if networks.float_weights:
        lines.append(f"{name}: stays in float: {', '.join(networks.float_weights)}")
    if unrounded := networks.float_activations:
        lines.append(f"{name}: {len(unrounded)} reach a layer unrounded: {_few(unrounded)}")
    return lines


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def about_training(bench: Bench, settings: Settings) -> list[str]:
    """How many real images the student learns from, in a line; none where it is zero-shot."""
    if not get_method(settings.method).real:
        return []
    return [f"training  {len(bench.training[1])} real images: a ceiling, not zero-shot"]


def check_sizes(bench: Bench, settings: Settings) -> None:
    """Refuse sizes that the device has no memory for, before the system ends what fills it.

    Where the method sees training images, they are read now, so that what is wrong with them shows.

    Raises:
        AktError: if images of a step, and what makes them, are larger already than all of it; or a
            single number is all that the generator's first batch norm would see of a channel.
    """
    method, size = get_method(settings.method), bench.image_size
    pixels = bench.channels * size**2
    needed = 3 * settings.batch_size * pixels  # noise or a view, images, their gradient
    if method.pool:
        needed += settings.pool * pixels
    elif method.real:
        _ = bench.training
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


def memory_of_a_run(bench: Bench, settings: Settings) -> int:
    """Bytes that a training takes of a GPU, at most: an estimate, by a step's largest part.

    What both networks keep of a batch for their backward passes, and once more as much for
    gradients and for the generator each; beside that what a graph and its libraries take.
    """
    networks = make_networks(bench, settings)
    one, two = (_kept_for_backward(networks, bench, count) for count in (1, 2))
    return 3 * (one + (settings.batch_size - 1) * (two - one)) + 2**28


def _kept_for_backward(networks: Sequence[nn.Module], bench: Bench, count: int) -> int:
    """Bytes, the networks' own weights included, of so many images."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = bench.normalise(bench.images[:1]).to(bench.device).repeat(count, 1, 1, 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = [network(images.requires_grad_()) for network in networks]
    del made  # it held what was counted
    return sum(kept.values())


def _memory(device: torch.device) -> float:
    """Of a device, in bytes; infinite where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def say(line: str) -> None:
    """On standard error, above progress bars."""
    tqdm.write(one_line(line), file=sys.stderr)
