"""Instant answers for the course's exercises, one file for each notebook.

from akt_course import checks
checks.affine_quantize(my_function)   # ✓, or ✗ with the likely mistake
"""

from akt_course.checks.attention import attention_maps, divergence
from akt_course.checks.curvature import hutchinson_trace, top_eigenvalue
from akt_course.checks.edge import fold_batch_norm, pack
from akt_course.checks.evidence import bootstrap_difference, seeds_needed
from akt_course.checks.gradients import explosion_ratio, gradient_norms
from akt_course.checks.images import bns_loss, capture_inputs
from akt_course.checks.quantization import affine_quantize, best_clip
from akt_course.checks.transfer import akt_loss, dead_terms

__all__ = [
    "affine_quantize",
    "akt_loss",
    "attention_maps",
    "best_clip",
    "bns_loss",
    "bootstrap_difference",
    "capture_inputs",
    "dead_terms",
    "divergence",
    "explosion_ratio",
    "fold_batch_norm",
    "gradient_norms",
    "hutchinson_trace",
    "pack",
    "seeds_needed",
    "top_eigenvalue",
]
