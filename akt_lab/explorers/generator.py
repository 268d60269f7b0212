"""Explorer 4: what a generator draws, how sure the teacher is, and how near to its statistics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from torch import Tensor, nn

from akt_lab.benches import Bench
from akt_lab.errors import AktError
from akt_lab.explorers.explorer import Explorer, menu, slider
from akt_lab.explorers.picture import Picture, Shown
from akt_lab.explorers.students import END, Kept, Students, bench_of, with_generator
from akt_lab.figures.style import COLOURS, plain
from akt_lab.generator import Generator
from akt_lab.graph import capture_bn_inputs
from akt_lab.losses import bns_loss
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator

IMAGES, SEEDS = 10, range(30)
LOWEST, HIGHEST = 1e-4, 1e2  # of the mismatch's axis


@dataclass(frozen=True)
class View:
    """What the generator explorer draws, of images of one class.

    Attributes:
        label: the class's name.
        images: (N, S, S) or (N, S, S, 3), from 0 to 1.
        confidence: the teacher's probability of the class, (N,).
        mismatch: of each batch norm's statistics with the teacher's, (L,): `losses.bns_loss`.
        real: the same for as many evaluation images of the class.
    """

    label: str
    images: np.ndarray
    confidence: np.ndarray
    mismatch: np.ndarray
    real: np.ndarray


# ---- numbers -------------------------------------------------------------------------------------


@torch.no_grad()
def look(bench: Bench, generator: Generator, label: int, seed: int, real: np.ndarray) -> View:
    """Images of one class from a generator, and what the teacher makes of them.

    Args:
        bench: whose teacher looks at them.
        generator: of a run on this bench, in eval mode.
        label: the class.
        seed: of the noise.
        real: from `real_mismatch`, of that class.
    """
    z = torch.randn(IMAGES, generator.latent, generator=torch.Generator().manual_seed(seed))
    x = generator(z, torch.full((IMAGES,), label))
    t, mismatch = _seen(bench.teacher, x)
    return View(
        bench.classes[label],
        bench.shown(x),
        t.softmax(dim=1)[:, label].numpy(),
        mismatch,
        real,
    )


@torch.no_grad()
def real_mismatch(bench: Bench, label: int) -> np.ndarray:
    """Of as many evaluation images of a class, (L,)."""
    chosen = (bench.labels == label).nonzero().flatten()[:IMAGES].tolist()
    return _seen(bench.teacher, bench.normalise(bench.images[chosen]))[1]


def _seen(teacher: nn.Module, x: Tensor) -> tuple[Tensor, np.ndarray]:
    """Logits, and the mismatch of each batch norm's statistics."""
    with capture_bn_inputs(teacher) as statistics:
        t = teacher(x)
    return t, np.array([bns_loss([layer]).item() for layer in statistics])


# ---- picture -------------------------------------------------------------------------------------


def frame(figure: Figure, view: View) -> None:
    """A row of images, a bar below each, and the layers below that."""
    images = figure.add_axes((0.075, 0.715, 0.91, 0.225))
    images.set(xlim=(-0.5, IMAGES - 0.5), ylim=(0, 1), xticks=[], yticks=[])
    images.spines[:].set_visible(False)
    images.grid(False)
    sure = figure.add_axes((0.075, 0.50, 0.91, 0.18))
    sure.set(xlim=(-0.5, IMAGES - 0.5), ylim=(0, 105), xticks=[], yticks=[0, 50, 100])
    sure.set_ylabel("confidence (%)")
    layers = figure.add_axes((0.075, 0.11, 0.91, 0.27))
    count = len(view.mismatch)
    layers.set(xlim=(0.5, count + 0.5), ylim=(LOWEST, HIGHEST), yscale="log")
    layers.set_xticks(sorted({1, *range(5, count, 5), count}))
    layers.set_yticks([1e-4, 1e-2, 1, 1e2])
    layers.set(xlabel="batch norm, from input to output", ylabel="mismatch")


def fill(figure: Figure, view: View) -> Iterable[Artist]:
    """The class's part of the picture."""
    images, sure, layers = figure.axes
    yield images.text(
        0.5, 1.06, f"class {plain(view.label)}", ha="center", transform=images.transAxes
    )
    for number, pixels in enumerate(view.images):
        extent = (number - 0.46, number + 0.46, 0, 1)
        yield images.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto",
                            interpolation="nearest")  # fmt: skip
    places = np.arange(IMAGES)
    yield sure.vlines(places, 0, 100 * view.confidence, color=COLOURS[0], linewidth=30)
    numbers = np.arange(1, len(view.mismatch) + 1)
    for values, style, colour in ((view.mismatch, "o-", 0), (view.real, "s--", 7)):
        shown = np.clip(values, LOWEST, HIGHEST)
        yield from layers.plot(numbers, shown, style, color=COLOURS[colour], markersize=4)


PICTURE = Picture((9.4, 4.3), frame, fill, key=lambda view: len(view.mismatch))
draw = PICTURE.draw


def show(view: View) -> Shown:
    """The picture, and what it says in words."""
    sure, mean = view.confidence.mean(), view.mismatch.mean()
    worst = int(view.mismatch.argmax()) + 1
    alt = (
        f"{IMAGES} synthetic images of class {view.label}. The teacher is {100 * sure:.0f}% sure "
        f"on average; mismatch of batch-norm statistics {mean:.3g}, largest in layer {worst}."
    )
    reading = (
        f"Teacher's confidence in class {view.label}: {100 * sure:.0f}% on average. Mismatch of "
        f"its batch norms: {mean:.3g} over all layers (blue); {view.real.mean():.3g} for as many "
        f"evaluation images of the class (grey, dashed). Largest in layer {worst}."
    )
    return Shown(PICTURE.png(view), alt, reading)


# ---- explorer ------------------------------------------------------------------------------------


def generator_explorer(runs: Sequence[Run] | None = None, bench: Bench | None = None) -> Explorer:
    """Class, seed and epoch of a run against images, the teacher's confidence, the mismatch.

    Args:
        runs: those that trained a generator.
        bench: of the runs; loaded where None.

    Raises:
        AktError: if no run trained a generator.
    """
    made = with_generator(runs or ())
    if not made:
        raise AktError("a generator needs a run that trained one: akt-lab demo makes some")
    bench = bench_of(made, bench)
    there = Students(bench, made)
    names = list(there.runs)
    real = cache(partial(real_mismatch, bench))
    generator = Kept(lambda run, epoch: load_generator(run, bench, epoch))
    bits = there.bits(names[0])
    c: dict[str, Any] = {
        "run": menu("run", names, names[0], "whose generator"),
        "bits": slider("bits", bits, bits[0], "of the student that it was trained with"),
        "epoch": slider("epoch", [END], END, "of its training"),
        "label": menu("class", [(n, i) for i, n in enumerate(bench.classes)], 0, "of the images"),
        "seed": slider("seed", SEEDS, 0, "of the noise"),
    }

    def shown(run: str, bits: int, epoch: Any, label: int, seed: int) -> Shown:
        network = generator(there.runs[run][bits], epoch)
        return show(look(bench, network, label, seed, real(label)))

    rows = [[c["run"], c["bits"]], [c["label"], c["epoch"], c["seed"]]]
    return Explorer(shown, c, rows, lambda: there.follow(c["run"], c["bits"], c["epoch"]))
