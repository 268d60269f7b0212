"""Explorers: move a slider, see it change. A pure `draw` each, and a thin shell of ipywidgets."""

from akt_lab.widgets.app import app
from akt_lab.widgets.attention import attention_explorer
from akt_lab.widgets.generator import generator_explorer
from akt_lab.widgets.gradients import gradient_explorer
from akt_lab.widgets.panel import training_panel
from akt_lab.widgets.playground import quantizer_playground

__all__ = [
    "app",
    "attention_explorer",
    "generator_explorer",
    "gradient_explorer",
    "quantizer_playground",
    "training_panel",
]
