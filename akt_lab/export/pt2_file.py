"""A student, or its teacher, as a .pt2 file of torch.export: its fake quantization goes with it."""

import copy
import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import fx, nn

from akt_lab.errors import AktError
from akt_lab.export.builder import LOGITS
from akt_lab.export.network import BATCHES
from akt_lab.export.onnx_file import check_exportable
from akt_lab.export.runtimes import Arrays, Runtime
from akt_lab.graph import trace
from akt_lab.graph.operations import layer
from akt_lab.quantizer import ActivationQuantizer


def to_pt2(
    network: nn.Module,
    shape: Sequence[int],
    *,
    metadata: Mapping[str, str] | None = None,
    rounded: bool = False,
) -> bytes:
    """The content of a .pt2 file that computes what `network` does, for any number of images.

    PyTorch alone reads it: `torch.export.load(file).module()` takes images (batch, *shape) in the
    teacher's normalised input space, and gives logits (batch, classes). A student's weights are in
    floating point there, and are rounded at every pass, as activations are.

    Args:
        network: a student of `quantize_model` whose ranges are frozen, or any other network that
            `trace` can trace.
        shape: (channels, H, W) of an image.
        metadata: names and texts to go with it: `torch.export.load`'s `extra_files`.
        rounded: whether it gives a dictionary: `logits`, and `rounded/NAME` for every rounded
            activation.

    Raises:
        AktError: live ranges, or ranges that were not observed or not frozen; weights that are not
            float32; what torch.export cannot write, or only for so many images.
    """
    graph = network if isinstance(network, fx.GraphModule) else trace(network)
    check_exportable(graph)
    graph = copy.deepcopy(graph).cpu()
    if rounded:
        _give_rounded(graph)
    content, images = io.BytesIO(), torch.zeros(BATCHES[0], *shape)
    try:
        with torch.no_grad():
            batch = {0: torch.export.Dim("batch")}
            program = torch.export.export(graph, (images,), dynamic_shapes=(batch,))
        with warnings.catch_warnings():  # of weights that lie channels-last, which it keeps whole
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(program, content, extra_files=dict(metadata or {}))
    except Exception as error:  # whatever a network's forward can meet there
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AktError(f"torch.export cannot write this network ({why})") from error
    return content.getvalue()


def _give_rounded(graph: fx.GraphModule) -> None:
    """Let a graph give every rounded activation, too."""
    (output,) = graph.graph.find_nodes(op="output")
    named = {
        f"rounded/{node.target}": node
        for node in graph.graph.nodes
        if isinstance(layer(graph, node), ActivationQuantizer)
    }
    output.args = ({LOGITS: output.args[0], **named},)
    graph.recompile()


class TorchExport(Runtime):
    """PyTorch's own, of .pt2 files; all is computed in floating point there."""

    package = "torch"

    def __init__(self, content: bytes) -> None:
        """Load the content of a .pt2 file."""
        self.network = torch.export.load(io.BytesIO(content)).module()

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> Arrays:
        """Every output, by name, for images (B, channels, H, W), float32."""
        found = self.network(torch.from_numpy(images))
        outputs = found if isinstance(found, dict) else {LOGITS: found}
        return {name: values.numpy() for name, values in outputs.items()}

    def layers(self, images: np.ndarray) -> dict[str, bool]:
        """None is known by its name."""
        return {}
