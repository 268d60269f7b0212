"""A student, or its teacher, as an ONNX file: what can be exported, and what goes with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import fx, nn

from akt_lab.errors import AktError, unknown
from akt_lab.export.forms import FORMS
from akt_lab.export.network import write
from akt_lab.export.weights import STORAGES
from akt_lab.graph import trace
from akt_lab.quantizer import CHOSEN, ActivationQuantizer


def to_onnx(
    network: nn.Module,
    shape: Sequence[int],
    *,
    storage: str = "int8",
    maps: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    rounded: bool = False,
) -> bytes:
    """The content of an ONNX file that computes what `network` does, for any number of images.

    Its input `images` is (batch, *shape), in the teacher's normalised input space; its output
    `logits` is (batch, classes). A student's activations are rounded by QuantizeLinear and
    DequantizeLinear, and clipped to the grid's ends before; its weights are whole numbers. A batch
    norm is a scale, which goes into that of the grid behind whose layer it stands, and a shift.

    Args:
        network: a student of `quantize_model` whose ranges are frozen; or any other network that
            `trace` can trace, which is then written in floating point.
        shape: (channels, H, W) of an image.
        storage: `int8`, a byte for each weight, q - zero_point; `int4`, half a byte up to 4 bits,
            and `packed`, its bits, which become int8 when the file is loaded; `float`, the rounded
            weights themselves, and the activations rounded by arithmetic, for what knows no whole
            numbers.
        maps: names of layers whose outputs (batch, C, H, W) are outputs `map/NAME`, too.
        metadata: names and texts to go with it.
        rounded: whether every rounded activation is an output `rounded/NAME`, too.

    Raises:
        UsageError: for an unknown storage or layer.
        AktError: an operation without an ONNX form, by its name; live ranges, or ranges that were
            not observed or not frozen; weights that are not float32; onnx not installed.
    """
    if storage not in STORAGES:
        raise unknown("storage", storage, STORAGES)
    graph = network if isinstance(network, fx.GraphModule) else trace(network)
    check_exportable(graph)
    layers = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    for name in maps:
        if name not in layers:
            raise unknown("layer", name, sorted(layers))
    how = {"storage": storage, "maps": maps, "rounded": rounded, "metadata": metadata}
    return write(graph, shape, FORMS, **how).SerializeToString()  # type: ignore[arg-type]


def check_exportable(network: nn.Module) -> None:
    """Refuse a student whose ranges no file can hold.

    Raises:
        AktError: ranges that are live, were never observed, or are not frozen; other types than
            float32.
    """
    for name, module in network.named_modules():
        if not isinstance(module, ActivationQuantizer):
            continue
        if module.ranges == "per_channel_dynamic":
            raise AktError(
                f"{name} has live ranges (GranQ), computed anew for each image and channel, which "
                "no file of fixed scales can hold: export a student with static ones, --ranges ema"
            )
        seen = module.updates or (module.ranges in CHOSEN and module.chosen)
        if not seen:
            raise AktError(f"{name} has observed no batch: run images through the student first")
        if not (module.high - module.low).isfinite():
            raise AktError(f"{name} has observed a NaN, or values too large for a range")
        if module.observing:
            raise AktError(f"{name} still observes: freeze the ranges by freeze_ranges first")
    for name, weight in network.named_parameters():
        if weight.dtype != torch.float32:
            raise AktError(f"{name} is {weight.dtype}: only float32 networks can be exported")


def check_target(path: Path) -> None:
    """Refuse a place where a file cannot be written, before the work.

    Raises:
        AktError: if a file is there already, or its folder is not.
    """
    if path.exists():
        raise AktError(f"--out {path} exists already: name another file, or delete it")
    if not path.parent.is_dir():
        raise AktError(f"--out {path}: there is no folder {path.parent}: make it first")
