"""Explorers: move a slider, see it change. A pure `draw` each, and a thin shell of ipywidgets."""

from akt_lab.widgets.playground import quantizer_playground

__all__ = ["quantizer_playground"]
