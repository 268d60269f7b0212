"""The figures of figures/: which runs each one reads, and the gallery page that shows them.

A new figure is one function that takes runs and returns a `plots.Drawing`, and one entry in
`FIGURES`.
"""

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from akt_lab.analysis import studies
from akt_lab.analysis.gradients import summarise
from akt_lab.analysis.kept import bench_of, check_one_bench
from akt_lab.analysis.verdicts import page as verdicts_page
from akt_lab.attention import attention_by_image, channel_attention, spatial_attention
from akt_lab.errors import AktError, unknown
from akt_lab.figures.ablations import drawing as draw_ablations
from akt_lab.figures.accuracy import accuracy_by_bits as draw_accuracy
from akt_lab.figures.attention import attention_by_bits as draw_attention_by_bits
from akt_lab.figures.attention import attention_side_by_side as draw_attention
from akt_lab.figures.curvature import curvature as draw_curvature
from akt_lab.figures.curvature import loss_surface as draw_loss_surface
from akt_lab.figures.curvature import straight_through as draw_straight_through
from akt_lab.figures.error_cost import error_cost as draw_error_cost
from akt_lab.figures.gradients import gradient_suspects as draw_gradient_suspects
from akt_lab.figures.gradients import gradients_by_bits as draw_gradients_by_bits
from akt_lab.figures.gradients import gradients_by_layer as draw_gradients_by_layer
from akt_lab.figures.images import images_by_class
from akt_lab.figures.method import method as draw_method
from akt_lab.figures.style import Drawing, save, seeds
from akt_lab.figures.training import training_by_bits as draw_training
from akt_lab.generator import Generator
from akt_lab.graph import capture_maps, residual_bodies, trace
from akt_lab.image_pool import ImagePool
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student
from akt_lab.runs.results import table
from akt_lab.settings import Settings

SHOWN_BITS = 3  # the bit-width whose student and images are drawn, where it is among the runs


def draw(names: Sequence[str], runs: Sequence[Run], folder: Path, options: str = "") -> list[Path]:
    """Draw figures by name into `folder` (without names all of the demo's), and its gallery page.

    Args:
        names: of `FIGURES`.
        runs: what they are drawn from.
        folder: where they go.
        options: of the command that draws them again, for the page.

    Returns:
        The pictures' paths.

    Raises:
        UsageError: for a name that is no figure's.
    """
    check(names)
    chosen = list(names) or OF_DEMO
    for name in chosen:
        save(FIGURES[name](runs), folder, name, f"akt-lab figures {name}{options}")
    write_page(folder)
    return [folder / f"{name}.png" for name in chosen]


def check(names: Sequence[str]) -> None:
    """Refuse a name that is no figure's with a UsageError."""
    for name in names:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)


def write_page(folder: Path) -> None:
    """figures/README.md: each picture with its caption, its data and the command that makes it."""
    head = "Each is made by the command below it, from runs; nothing is drawn by hand."
    title = "Figures" if folder.name == "figures" else f"Figures: {folder.name}"
    parts = [f"# {title}\n\n{head}"]
    if verdicts := verdicts_page(folder):
        parts.append(verdicts)
    for name in FIGURES:
        if (folder / f"{name}.json").exists():
            about = json.loads((folder / f"{name}.json").read_text())
            parts.append(
                f"## {name.replace('_', ' ').capitalize()}\n\n"
                f'<img src="{name}.png" alt="{html.escape(about["alt"])}" width="760">\n\n'
                f"{about['caption']}\n\n"
                f"`{about['command']}` · [data]({name}.csv) · [vector]({name}.svg)"
            )
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


# ---- the figures --------------------------------------------------------------------------------


def accuracy_by_bits(runs: Sequence[Run]) -> Drawing:
    """Accuracy against bit-width, one line a method."""
    return draw_accuracy(table(runs))


def training_by_bits(runs: Sequence[Run]) -> Drawing:
    """Student loss above its floor, and gradient norm, through training."""
    curves = [curve for curve in map(_curves, runs) if not curve.empty]
    if not curves:
        raise AktError("training_by_bits needs a run that trained a student: `ptq` alone does not")
    history = pd.concat(curves, ignore_index=True)
    return draw_training(history)


def _curves(run: Run) -> pd.DataFrame:
    """The student's steps of one run; the loss is counted from the least value it can take."""
    history, settings = run.history(), run.record["settings"]
    if "student/gradient_norm" not in history:
        return pd.DataFrame()
    steps = history.dropna(subset=["student/gradient_norm"])
    terms = [c for c in steps if c.startswith("student/") and c != "student/gradient_norm"]
    loss = steps[terms].sum(axis=1)
    if "student/difference_entropy" in terms:  # its least value is -T^2 ln C, not 0
        shared = "akt" in settings["method"] and settings["variant"] == "paper"
        weight = 1 - settings["alpha"] if shared else 1.0
        loss = loss + weight * settings["temperature"] ** 2 * math.log(run.record["classes"])
    return pd.DataFrame(
        {
            "method": settings["method"],
            "variant": settings["variant"] if "akt" in settings["method"] else "",
            "bits": settings["weight_bits"],
            "seed": settings["seed"],
            "step": range(1, len(steps) + 1),
            "loss_above_floor": loss.to_numpy(),
            "gradient_norm": steps["student/gradient_norm"].to_numpy(),
        }
    )


def attention_side_by_side(runs: Sequence[Run]) -> Drawing:
    """Spatial and channel attention of teacher and student on real images."""
    run = _shown(runs)
    bench, settings = bench_of([run]), run.record["settings"]
    student, _ = load_student(run, bench)
    teacher = trace(bench.teacher)
    layers = residual_bodies(teacher)
    layer = layers[len(layers) // 2]
    chosen = [
        int((bench.labels == label).nonzero()[0]) for label in range(min(4, bench.num_classes))
    ]
    inputs = bench.normalise(bench.images[chosen])
    with torch.inference_mode():
        maps = []
        for network in (teacher, student):
            with capture_maps(network, [layer]) as captured:
                network(inputs)
            maps.append(captured[layer])
    size = maps[0].shape[-2:]
    return draw_attention(
        _showable(bench.pixels(inputs)),
        [spatial_attention(m).view(-1, *size).numpy() for m in maps],
        [channel_attention(m).numpy() for m in maps],
        attention_by_image(*maps),
        [bench.classes[int(bench.labels[i])] for i in chosen],
        f"Layer {layer} of {bench.name}, {_about(settings)}, after training",
    )


def synthetic_images(runs: Sequence[Run]) -> Drawing:
    """Images of every class from a run's generator."""
    run = _shown(runs)
    bench, settings = bench_of([run]), run.record["settings"]
    classes = min(10, bench.num_classes)
    images, y = _of_classes(load_generator(run, bench), classes, 10)
    columns = len(y) // classes
    with torch.inference_mode():
        probability = bench.teacher(images).softmax(1).gather(1, y[:, None])
    pixels = _showable(bench.pixels(images))
    return images_by_class(
        pixels.reshape(classes, columns, *pixels.shape[1:]),
        bench.classes[:classes],
        probability.view(classes, columns).numpy(),
        title=f"Synthetic images for {bench.name}: {_about(settings)}",
    )


@torch.inference_mode()
def _of_classes(source: Generator | ImagePool, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Images of each class, and the classes; of a pool as many as every class has there.

    Raises:
        AktError: if the pool has none of some class.
    """
    if isinstance(source, Generator):
        y = torch.arange(classes).repeat_interleave(count)
        z, _ = source.draw(len(y), torch.Generator().manual_seed(0))
        return source(z, y), y
    count = min(count, int(source.labels.bincount(minlength=classes)[:classes].min()))
    if not count:
        raise AktError("this run's pool is too small to show: it has no image of some class")
    chosen = torch.cat([(source.labels == c).nonzero()[:count, 0] for c in range(classes)])
    return source.images[chosen], source.labels[chosen]


def gradients_by_bits(runs: Sequence[Run]) -> Drawing:
    """Size, bursts and direction of the student's gradient by bits and loss."""
    found = studies.gradients(runs)
    return draw_gradients_by_bits(summarise(found), _steps(runs, found) + _bars(found))


def gradients_by_layer(runs: Sequence[Run]) -> Drawing:
    """Where gradients grow as bits fall."""
    found = studies.gradients(runs)
    about = f"{_steps(runs, found)} Median over steps, {seeds(found)}."
    return draw_gradients_by_layer(found, about)


def gradient_suspects(runs: Sequence[Run]) -> Drawing:
    """The straight-through rule and the faulty ranges as causes of large gradients."""
    found = studies.gradients(runs)
    about = _steps(runs, found) + _bars(found)
    return draw_gradient_suspects(summarise(found), about)


def attention_by_bits(runs: Sequence[Run]) -> Drawing:
    """How far attention lies apart before and after training."""
    about = f"Bench `{_name(runs)}`, {studies.SHOWN} evaluation images."
    return draw_attention_by_bits(studies.attention(runs), about)


def error_cost(runs: Sequence[Run]) -> Drawing:
    """What the parts of a feature map's rounding error cost."""
    about = _batch(runs, f"{studies.COST_IMAGES} synthetic images, one seed")
    return draw_error_cost(studies.error_cost(runs), about)


def curvature(runs: Sequence[Run]) -> Drawing:
    """The distillation loss's curvature by bits."""
    return draw_curvature(studies.curvature(runs), _batch(runs))


def straight_through(runs: Sequence[Run]) -> Drawing:
    """Whether what the straight-through estimator returns is a gradient."""
    return draw_straight_through(studies.asymmetry(runs), _batch(runs))


def loss_surface(runs: Sequence[Run]) -> Drawing:
    """The loss around the teacher and around trained students."""
    about = _batch(runs, "synthetic images, the first seed of each method")
    return draw_loss_surface(studies.surface(runs), about)


def _batch(runs: Sequence[Run], what: str = "synthetic images, one seed") -> str:
    return f"Bench `{_name(runs)}`, one batch of {what}."


def _name(runs: Sequence[Run]) -> str:
    check_one_bench(runs)
    spec = runs[0].entry("bench")
    return spec["teacher"] or spec["bench"]


def _steps(runs: Sequence[Run], found: pd.DataFrame) -> str:
    return (
        f"Bench `{_name(runs)}`: every student starts as its teacher and takes "
        f"{found['step'].nunique()} steps on the same synthetic images."
    )


def _bars(found: pd.DataFrame) -> str:
    several = found["seed"].nunique() > 1
    how = "median and, as bars, the least and the largest of " if several else ""
    return f" Shown: {how}{seeds(found)}."


FIGURES: dict[str, Callable[[Sequence[Run]], Drawing]] = {
    "method": lambda _: draw_method(),
    "accuracy_by_bits": accuracy_by_bits,
    "training_by_bits": training_by_bits,
    "attention_side_by_side": attention_side_by_side,
    "synthetic_images": synthetic_images,
    "gradients_by_bits": gradients_by_bits,
    "gradients_by_layer": gradients_by_layer,
    "gradient_suspects": gradient_suspects,
    "attention_by_bits": attention_by_bits,
    "error_cost": error_cost,
    "curvature": curvature,
    "straight_through": straight_through,
    "loss_surface": loss_surface,
    "ablations": draw_ablations,
}

OF_RUNS = list(FIGURES)[:5]  # from what runs left; the others need studies, in minutes

OF_DEMO = [name for name in FIGURES if name != "ablations"]  # which has runs of its own


def _about(settings: Mapping[str, Any]) -> str:
    """Which run a picture is of."""
    name = Settings.from_dict(settings).label
    return f"{name}, {settings['weight_bits']} bits, seed {settings['seed']}"


def _shown(runs: Sequence[Run]) -> Run:
    """The run whose student and images are drawn: AKT's at 3 bits, or the nearest to it."""

    def rank(run: Run) -> tuple[bool, bool, int]:
        record = run.record
        settings = record["settings"]
        unfinished = record.get("status") != "done"
        return (
            unfinished,
            "akt" not in settings["method"],
            abs(settings["weight_bits"] - SHOWN_BITS),
        )

    return min(runs, key=rank)


def _showable(pixels: torch.Tensor) -> np.ndarray:
    """(N, C, S, S) -> (N, S, S) in grey, (N, S, S, 3) in colour, for imshow."""
    return (pixels[:, 0] if pixels.shape[1] == 1 else pixels.permute(0, 2, 3, 1)).numpy()
