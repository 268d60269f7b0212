"""Move a slider, see it change: `look` (numbers), `frame` and `fill` (picture), `show` (words)."""

from akt_lab.explorers.app import app
from akt_lab.explorers.attention import attention_explorer
from akt_lab.explorers.generator import generator_explorer
from akt_lab.explorers.gradients import gradient_explorer
from akt_lab.explorers.quantizer import quantizer_playground
from akt_lab.explorers.training import training_panel

__all__ = [
    "app",
    "attention_explorer",
    "generator_explorer",
    "gradient_explorer",
    "quantizer_playground",
    "training_panel",
]
