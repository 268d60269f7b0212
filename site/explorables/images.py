"""Images from nothing: a generator trained with and without each of its losses, epoch by epoch.

    L = class CE(t, y) + statistics 10 L_BNS

as in notebook 3: the teacher t is all that it learns from. Judged by belief (the teacher's
probability of the class that was asked for), by the mismatch of each batch norm, and by a purpose:
the accuracy of a 3-bit student whose activation ranges were observed on the images.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks import packed
from torch import Tensor, fx
from tqdm.auto import tqdm

from akt_lab import losses
from akt_lab.benches import Bench
from akt_lab.generator import Generator
from akt_lab.graph import capture_bn_inputs, trace
from akt_lab.quantizer import freeze_ranges, quantize_model
from akt_lab.runs.training import evaluate

LOSSES = {"both": (1.0, 10.0), "class": (1.0, 0.0), "statistics": (0.0, 10.0)}
EPOCHS, STEPS, BATCH, RATE = 10, 25, 64, 1e-3
PER_CLASS, SHOWN, BITS = 20, 6, 3  # images of each class that are judged; that the page shows
GREYS = 15


def made(bench: Bench, epochs: int = EPOCHS, steps: int = STEPS) -> dict[str, Any]:
    """For each of LOSSES, and each epoch from 0 (untrained): images, and what they are worth.

    Returns:
        `losses` by name, each `images` (epoch, class, image, S, S), two of 4 bits in a byte;
        `belief` (epoch, class); `mismatch` (epoch, batch norm); `accuracy` (epoch,), in percent;
        and `real`: the mismatch and accuracy of as many test images.
    """
    teacher = trace(bench.teacher).requires_grad_(False)
    chosen = [
        (bench.labels == label).nonzero()[:PER_CLASS, 0] for label in range(bench.num_classes)
    ]
    real = bench.normalise(bench.images[torch.cat(chosen)])
    _, mismatch = _seen(teacher, real)
    found: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "bits": BITS,
        "real": {"mismatch": mismatch, "accuracy": _purpose(bench, real)},
        "losses": {},
    }
    for name, weights in LOSSES.items():
        looks = list(_epochs(bench, teacher, weights, epochs, steps, name))
        found["losses"][name] = {
            "images": packed(np.stack([look.pop("images") for look in looks]), "uint8"),
            **{key: [look[key] for look in looks] for key in looks[0]},
        }
    return found


def _epochs(
    bench: Bench,
    teacher: fx.GraphModule,
    weights: tuple[float, float],
    epochs: int,
    steps: int,
    name: str,
) -> Iterator[dict[str, Any]]:
    """Train a generator; what it makes before, and after each epoch."""
    of_class, of_statistics = weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # all start with the same weights
        generator = Generator(bench.num_classes, bench.image_size, bench.channels)
    adam = torch.optim.Adam(generator.parameters(), RATE, betas=(0.5, 0.999))
    rng = torch.Generator().manual_seed(0)
    yield _look(bench, teacher, generator)
    for _ in tqdm(range(epochs), desc=f"generator, loss: {name}"):
        for _ in range(steps):
            z, y = generator.draw(BATCH, rng)
            with capture_bn_inputs(teacher) as statistics:
                t = teacher(generator(z, y))
            loss = of_class * F.cross_entropy(t, y) + of_statistics * losses.bns_loss(statistics)
            adam.zero_grad()
            loss.backward()
            adam.step()
        yield _look(bench, teacher, generator)


@torch.no_grad()
def _look(bench: Bench, teacher: fx.GraphModule, generator: Generator) -> dict[str, Any]:
    """The same noise for all, in training mode, as while it learns."""
    y = torch.arange(bench.num_classes).repeat_interleave(PER_CLASS)
    noise = torch.Generator().manual_seed(1)
    x = generator(torch.randn(len(y), generator.latent, generator=noise), y)
    t, mismatch = _seen(teacher, x)
    belief = t.softmax(1).gather(1, y[:, None]).view(-1, PER_CLASS).mean(1)
    grey = (bench.pixels(x) * GREYS).round().byte().view(bench.num_classes, PER_CLASS, -1)
    grey = grey[:, :SHOWN].numpy()
    return {
        "images": grey[..., ::2] << 4 | grey[..., 1::2],
        "belief": [round(float(b), 4) for b in belief],
        "mismatch": mismatch,
        "accuracy": _purpose(bench, x),
    }


@torch.no_grad()
def _seen(teacher: fx.GraphModule, x: Tensor) -> tuple[Tensor, list[float]]:
    """Logits, and the mismatch of each batch norm's statistics."""
    with capture_bn_inputs(teacher) as statistics:
        t = teacher(x)
    return t, [round(float(losses.bns_loss([layer])), 6) for layer in statistics]


@torch.no_grad()
def _purpose(bench: Bench, x: Tensor) -> float:
    """Accuracy (%) of the rounded teacher whose ranges were observed on images; nothing learns."""
    student = quantize_model(bench.teacher, weight_bits=BITS, act_bits=BITS)
    student(x)
    freeze_ranges(student)
    return round(evaluate(student, bench), 2)
