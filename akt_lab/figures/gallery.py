"""The figures of figures/: which runs each one reads, and the gallery page that shows them.

A new figure is one function that takes runs and returns a `plots.Drawing`, and one entry in
`FIGURES`.
"""

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from akt_lab.analysis import studies
from akt_lab.analysis.gradients import summarise
from akt_lab.analysis.kept import check_one_bench
from akt_lab.analysis.verdicts import page as verdicts_page
from akt_lab.errors import unknown
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
from akt_lab.runs.folder import Run
from akt_lab.runs.results import table


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
    for name in names:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    chosen = list(names) or OF_DEMO
    for name in chosen:
        save(FIGURES[name](runs), folder, name, f"akt-lab figures {name}{options}")
    write_page(folder)
    return [folder / f"{name}.png" for name in chosen]


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
    return draw_training(studies.training(runs).drop(columns=["label", "same"]))


def attention_side_by_side(runs: Sequence[Run]) -> Drawing:
    """Spatial and channel attention of teacher and student on real images."""
    return draw_attention(**vars(studies.side_by_side(runs)))


def synthetic_images(runs: Sequence[Run]) -> Drawing:
    """Images of every class from a run's generator."""
    return images_by_class(**vars(studies.synthetic_images(runs)))


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
