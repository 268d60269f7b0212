# ruff: noqa: F401
"""AKT Lab: see zero-shot quantization happen, and test its claims.

    from akt_lab import quantize_model, Generator, akt_loss, Settings, METHODS, load_bench, train

Each name is imported when it is first used, so that `import akt_lab` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for editors and mypy
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.generator import Generator
    from akt_lab.losses import akt_loss
    from akt_lab.methods import METHODS
    from akt_lab.quantizer import quantize_model
    from akt_lab.runs.training import evaluate, summary, train
    from akt_lab.settings import Settings

__version__ = "0.1.0"
_HOME = {
    "BenchSpec": "benches",
    "Generator": "generator",
    "METHODS": "methods",
    "Settings": "settings",
    "akt_loss": "losses",
    "evaluate": "runs.training",
    "load_bench": "benches",
    "quantize_model": "quantizer",
    "summary": "runs.training",
    "train": "runs.training",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'akt_lab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"akt_lab.{_HOME[name]}"), name)
