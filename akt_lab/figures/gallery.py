"""The figures of figures/ by name, and the gallery page that shows them.

A new figure is a function that takes runs and returns a `style.Drawing`, and an entry in `FIGURES`.
Functions `draw_...(found, about)` draw what a study found; `about`, a sentence of the caption, says
on which bench and images.
"""

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.analysis import studies
from akt_lab.analysis.claims import page as verdicts_page
from akt_lab.analysis.gradients import summarise
from akt_lab.errors import unknown
from akt_lab.figures.ablations import ablations
from akt_lab.figures.accuracy import accuracy_by_bits
from akt_lab.figures.attention import draw_attention_by_bits, draw_attention_side_by_side
from akt_lab.figures.curvature import draw_curvature, draw_loss_surface, draw_straight_through
from akt_lab.figures.error_cost import draw_error_cost
from akt_lab.figures.gradients import (
    draw_gradient_suspects,
    draw_gradients_by_bits,
    draw_gradients_by_layer,
    how_found,
)
from akt_lab.figures.images import draw_synthetic_images
from akt_lab.figures.labels import alike, on_bench
from akt_lab.figures.method import method
from akt_lab.figures.ranges import accuracy_by_range
from akt_lab.figures.size import accuracy_by_bytes
from akt_lab.figures.style import Drawing, save
from akt_lab.figures.training import training_by_bits
from akt_lab.files import damaged, write_whole
from akt_lab.runs.folder import Run

Figure = Callable[[Sequence[Run]], Drawing]
EVALUATED = f", {studies.SHOWN} evaluation images."
FEW = f", {len(studies.COST_SEEDS)} batches of {studies.COST_IMAGES} synthetic images."
BATCH = ", one batch of synthetic images, "


def _of(
    study: Callable[[Sequence[Run]], Any],
    draw: Callable[[Any, str], Drawing],
    about: str | Callable[[Any], str],
) -> Figure:
    """A figure of a study; for its caption, the bench and what is `about` it, or what it found."""

    def figure(runs: Sequence[Run]) -> Drawing:
        found = study(runs)
        return draw(found, on_bench(runs, about if isinstance(about, str) else about(found)))

    return figure


def _summary(runs: Sequence[Run]) -> pd.DataFrame:
    return summarise(studies.gradients(runs))


FIGURES: dict[str, Figure] = {
    "method": method,
    "accuracy_by_bits": accuracy_by_bits,
    "accuracy_by_bytes": accuracy_by_bytes,
    "training_by_bits": training_by_bits,
    "attention_side_by_side": lambda runs: draw_attention_side_by_side(studies.side_by_side(runs)),
    "synthetic_images": lambda runs: draw_synthetic_images(studies.synthetic_images(runs)),
    "gradients_by_bits": _of(_summary, draw_gradients_by_bits, how_found),
    "gradients_by_layer": _of(studies.gradients, draw_gradients_by_layer, how_found),
    "gradient_suspects": _of(_summary, draw_gradient_suspects, how_found),
    "attention_by_bits": _of(
        lambda runs: studies.attention(alike(runs)), draw_attention_by_bits, EVALUATED
    ),
    "error_cost": _of(studies.error_cost, draw_error_cost, FEW),
    "curvature": _of(studies.curvature, draw_curvature, BATCH + "one seed."),
    "straight_through": _of(studies.asymmetry, draw_straight_through, BATCH + "one seed."),
    "loss_surface": _of(
        studies.surface, draw_loss_surface, BATCH + "the first seed of each method."
    ),
    "ablations": ablations,
    "accuracy_by_range": accuracy_by_range,
}
OF_RUNS = list(FIGURES)[:6]  # from what runs left; the others need studies, in minutes
OF_DEMO = [name for name in FIGURES if name not in ("ablations", "accuracy_by_range")]  # these
# have runs of their own


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
    """figures/README.md: each picture with its caption, its data and the command that makes it.

    Raises:
        AktError: if it cannot be written.
        DamagedError: if what lies beside a picture is not what was written.
    """
    head = "Each is made by the command below it, from runs; nothing is drawn by hand."
    title = "Figures" if folder.name == "figures" else f"Figures: {folder.name}"
    parts = [f"# {title}\n\n{head}"]
    if verdicts := verdicts_page(folder):
        parts.append(verdicts)
    for name in FIGURES:
        if (folder / f"{name}.json").exists():
            alt, caption, command = _about(folder / f"{name}.json")
            parts.append(
                f"## {name.replace('_', ' ').capitalize()}\n\n"
                f'<img src="{name}.png" alt="{html.escape(" ".join(alt.split()))}" width="760">\n\n'
                f"{caption}\n\n"
                f"`{command}` · [data]({name}.csv) · [vector]({name}.svg)"
            )
    write_whole(folder / "README.md", ("\n\n".join(parts) + "\n").encode())


def _about(path: Path) -> list[str]:
    try:
        about = json.loads(path.read_bytes())
        return [str(about[name]) for name in ("alt", "caption", "command")]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error, f"draw it again: akt-lab figures {path.stem}") from error
