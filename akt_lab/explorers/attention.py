"""Explorer 2: where teacher and student look, image by image and layer by layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from torch import Tensor, nn

from akt_lab.attention import attention_by_image, channel_attention, spatial_attention
from akt_lab.benches import Bench
from akt_lab.errors import unknown
from akt_lab.explorers.explorer import Explorer, menu, slider
from akt_lab.explorers.image_source import Images
from akt_lab.explorers.picture import Picture, Shown
from akt_lab.explorers.students import END, Own, Students, bench_of
from akt_lab.figures.style import COLOURS
from akt_lab.graph import capture_maps, residual_bodies
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import teacher_graph

LOWEST, HIGHEST = 1e-5, 100  # nats, of the divergences' axis


@dataclass(frozen=True)
class View:
    """What the attention explorer draws, of one image.

    Attributes:
        image: (S, S) or (S, S, 3), from 0 to 1.
        spatial: teacher's and student's spatial attention, (2, H, W), unit length.
        channel: teacher's and student's channel attention, (2, C), sums to 1.
        divergences: spatial and channel of every layer, (2, L), KL(teacher || student) in nats.
        layer: which of them is shown.
        layers: all names.
        says: the class that teacher and student see in the image.
    """

    image: np.ndarray
    spatial: np.ndarray
    channel: np.ndarray
    divergences: np.ndarray
    layer: int
    layers: Sequence[str]
    says: tuple[str, str]

    @property
    def most_different(self) -> int:
        """The layer with the largest sum of both divergences."""
        return int(self.divergences.sum(axis=0).argmax())


# ---- numbers -------------------------------------------------------------------------------------


@torch.inference_mode()
def look(bench: Bench, teacher: nn.Module, student: nn.Module, x: Tensor, layer: str) -> View:
    """Attention of two networks on one image.

    Args:
        bench: for how an image is shown.
        teacher: from `graph.trace`.
        student: from `quantizer.quantize_model`.
        x: (1, channels, S, S), normalised.
        layer: one of `graph.residual_bodies`.

    Raises:
        UsageError: if there is no such layer.
    """
    layers = residual_bodies(teacher)  # type: ignore[arg-type]
    if layer not in layers:
        raise unknown("layer", layer, layers)
    logits, maps = [], []
    for network in (teacher, student):
        with capture_maps(network, layers) as found:
            logits.append(network(x))
        maps.append(list(found.values()))
    divergences = [attention_by_image(t, s)[0] for t, s in zip(*maps, strict=True)]
    chosen = layers.index(layer)
    pair = [m[chosen] for m in maps]
    spatial = [spatial_attention(m).view(m.shape[-2:]) for m in pair]
    channel = [channel_attention(m)[0] for m in pair]
    return View(
        bench.shown(x)[0],
        torch.stack(spatial).numpy(),
        torch.stack(channel).numpy(),
        np.array(divergences).T,
        chosen,
        layers,
        (bench.classes[int(logits[0].argmax())], bench.classes[int(logits[1].argmax())]),
    )


# ---- picture -------------------------------------------------------------------------------------


def frame(figure: Figure, view: View) -> None:
    """Four maps above; the channels and the layers below."""
    names = ("image", "teacher looks", "student looks", "student − teacher")
    for number, name in enumerate(names):
        axes = figure.add_axes((0.02 + 0.247 * number, 0.47, 0.22, 0.465))
        axes.set(xlim=(0, 1), ylim=(0, 1), title=name, aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(False)
    count, layers = view.channel.shape[1], len(view.layers)
    channels = figure.add_axes((0.06, 0.105, 0.45, 0.26))
    channels.set(xlim=(-0.8, count - 0.2), ylim=(0, 1.08), yticks=[0, 0.5, 1])
    channels.set(xlabel="channel, sorted by the teacher's", title="attention to channels")
    channels.set_ylabel("of the largest")
    by_layer = figure.add_axes((0.60, 0.105, 0.38, 0.26))
    by_layer.set(xlim=(-0.5, layers - 0.5), ylim=(LOWEST, HIGHEST), yscale="log")
    by_layer.set_xticks(range(layers), [str(n + 1) for n in range(layers)])
    by_layer.set_yticks([1e-4, 1e-2, 1])
    by_layer.set(xlabel="layer", title="divergence (nats)")


def fill(figure: Figure, view: View) -> Iterable[Artist]:
    """The image's part of the picture."""
    *maps, channels, by_layer = figure.axes
    largest = float(view.spatial.max())
    difference = view.spatial[1] - view.spatial[0]
    reach = float(np.abs(difference).max()) or 1.0
    yield _image(maps[0], view.image, "gray", (0, 1))
    for axes, attention in zip(maps[1:3], view.spatial, strict=True):
        yield _image(axes, attention, "cividis", (0, largest))
    yield _image(maps[3], difference, "RdBu_r", (-reach, reach))
    order, top = view.channel[0].argsort()[::-1], view.channel.max()
    teacher, student = view.channel[:, order] / top
    places = np.arange(len(teacher))
    yield channels.vlines(places, 0, teacher, color=COLOURS[0], linewidth=200 / len(teacher) ** 0.9)
    yield from channels.plot(places, student, "D", color=COLOURS[1], markersize=4)
    both = np.clip(view.divergences, LOWEST, HIGHEST)
    yield from by_layer.plot(both[0], "o-", color=COLOURS[0], markersize=4)
    yield from by_layer.plot(both[1], "s--", color=COLOURS[3], markersize=4)
    yield by_layer.axvline(view.layer, color="0.5", linewidth=8, alpha=0.3)


def _image(axes: Any, pixels: np.ndarray, colours: str, ends: tuple[float, float]) -> Artist:
    low, high = ends
    return axes.imshow(
        pixels, cmap=colours, vmin=low, vmax=high, extent=(0, 1, 0, 1), interpolation="nearest"
    )


PICTURE = Picture(
    (9.4, 4.6), frame, fill, key=lambda view: (view.channel.shape[1], len(view.layers))
)
draw = PICTURE.draw


def show(view: View) -> Shown:
    """The picture, and what it says in words."""
    where, which = view.divergences[:, view.layer]
    difference = view.spatial[1] - view.spatial[0]
    row, column = np.unravel_index(np.abs(difference).argmax(), difference.shape)
    more = "more" if difference[row, column] > 0 else "less"
    worst = view.most_different
    alt = (
        f"Layer {view.layer + 1} of {len(view.layers)}, {view.layers[view.layer]}: spatial "
        f"divergence {where:.2e}, channel divergence {which:.2e} nats. The student looks {more} at "
        f"row {row + 1}, column {column + 1} of {' by '.join(map(str, difference.shape))}; "
        f"layer {worst + 1} disagrees most. The teacher says {view.says[0]}, the student "
        f"{view.says[1]}."
    )
    reading = (
        f"The teacher says {view.says[0]}, the student {view.says[1]}. "
        f"Divergence in this layer: spatial {where:.2e} (blue dots below), channel {which:.2e} "
        f"(red squares) nats; layer {worst + 1} disagrees most. Both maps have one scale, to "
        f"{view.spatial.max():.2f}. Red: the student looks there more, blue: less, by at most "
        f"{np.abs(difference).max():.3f}. Bars: teacher's channels, diamonds: the student's."
    )
    return Shown(PICTURE.png(view), alt, reading)


# ---- explorer ------------------------------------------------------------------------------------


def attention_explorer(
    runs: Sequence[Run] | None = None, bench: Bench | None = None, students: Own | None = None
) -> Explorer:
    """Image x layer x student: both attention maps, their signed difference, both divergences.

    Args:
        runs: whose students are shown, beside those that were merely rounded.
        bench: whose images are shown; that of the runs, or digits, where None.
        students: in place of the rounded ones, by name and bits: from `quantize_model`, frozen.
    """
    bench = bench_of(runs or (), bench)
    there, images = Students(bench, runs or (), students), Images(bench, runs or ())
    teacher = cache(lambda equalized: teacher_graph(bench, equalized))
    layers = residual_bodies(teacher(False))
    first = there.names[0]
    bits = there.bits(first)
    c: dict[str, Any] = {
        **images.controls,
        "layer": menu("layer", layers, layers[len(layers) // 2], "whose feature map"),
        "method": menu("student", there.names, first, "how it was made"),
        "bits": slider("bits", bits, 3 if 3 in bits else bits[0], "of weights and activations"),
        "epoch": slider("epoch", [END], END, "of the student's training"),
    }

    def follow() -> None:
        images.follow()
        there.follow(c["method"], c["bits"], c["epoch"])

    def view(layer: str, method: str, bits: int, epoch: Any, **image: Any) -> View:
        student = there.load(method, bits, epoch)
        partner = teacher(there.equalized(method, bits))
        return look(bench, partner, student, images.get(**image), layer)

    jump = ipywidgets.Button(description="Most different layer", tooltip="jump to it")
    rows = [*images.rows, [c["method"], c["bits"]], [c["layer"], c["epoch"], jump]]
    explorer = Explorer(lambda **values: show(view(**values)), c, rows, follow)

    def leap() -> None:
        c["layer"].value = layers[view(**explorer.values).most_different]

    jump.on_click(lambda _: explorer.attempt(leap))
    return explorer
