"""The figures of figures/ by name, and the gallery page that shows them.

A new figure is one function that takes runs and returns a `style.Drawing`, and one entry in
`FIGURES`.
"""

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from akt_lab.analysis.verdicts import page as verdicts_page
from akt_lab.errors import unknown
from akt_lab.figures.ablations import ablations
from akt_lab.figures.accuracy import accuracy_by_bits
from akt_lab.figures.attention import attention_by_bits, attention_side_by_side
from akt_lab.figures.curvature import curvature, loss_surface, straight_through
from akt_lab.figures.error_cost import error_cost
from akt_lab.figures.gradients import gradient_suspects, gradients_by_bits, gradients_by_layer
from akt_lab.figures.images import synthetic_images
from akt_lab.figures.method import method
from akt_lab.figures.style import Drawing, save
from akt_lab.figures.training import training_by_bits
from akt_lab.runs.folder import Run

FIGURES: dict[str, Callable[[Sequence[Run]], Drawing]] = {
    "method": method,
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
    "ablations": ablations,
}
OF_RUNS = list(FIGURES)[:5]  # from what runs left; the others need studies, in minutes
OF_DEMO = [name for name in FIGURES if name != "ablations"]  # which has runs of its own


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
