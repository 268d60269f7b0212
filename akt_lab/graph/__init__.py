"""A network as a graph: what its nodes do, what it shows while it runs, which maps AKT distils.

What the method takes networks apart with. From the ground up: operations, captures, maps, channels,
tracing.
"""

from akt_lab.graph.captures import batch_norms, capture_bn_inputs, capture_maps
from akt_lab.graph.channels import Stream, streams
from akt_lab.graph.maps import (
    PLACES,
    behind,
    insert_after,
    map_layers,
    residual_bodies,
    residual_sums,
)
from akt_lab.graph.operations import (
    CONVOLUTION,
    QUANTIZERS,
    activations,
    from_images,
    is_activation,
    operation,
    torch_class,
    unrounded,
)
from akt_lab.graph.tracing import trace

__all__ = [
    "CONVOLUTION",
    "PLACES",
    "QUANTIZERS",
    "Stream",
    "activations",
    "batch_norms",
    "behind",
    "capture_bn_inputs",
    "capture_maps",
    "from_images",
    "insert_after",
    "is_activation",
    "map_layers",
    "operation",
    "residual_bodies",
    "residual_sums",
    "streams",
    "torch_class",
    "trace",
    "unrounded",
]
