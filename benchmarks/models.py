r"""What becomes of torchvision's classification models: each quantized right, or refused and why.

    python benchmarks/models.py --csv results/models.csv

Random weights, batch norms with one batch's statistics, the smallest square images of a multiple
of 32 pixels that the model runs on. Of the logits of the student, of 8 bits and with the ranges of
that batch:

    error    how far they lie from the teacher's
    noise    how far the teacher's own move when 1% of noise is added to the images
    control  how far they lie from those by PyTorch's own observers and kernels

each divided by the norm of the teacher's.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver
from torchvision import models

from akt_lab.errors import AktError
from akt_lab.graph import batch_norms, residual_bodies, trace
from akt_lab.quantizer import (
    activations_in_float,
    quantize_model,
    quantized_activations,
    quantized_layers,
    stays_in_float,
)

SIZES = (32, 64, 96, 128, 224, 256, 320)
BATCH, LARGE = 8, 1.2e8  # images; weights beyond which two images do


def classification_models() -> list[str]:
    """The names of torchvision's classification models."""
    return models.list_models(module=models)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model, its batch norms settled, and the images that settled them, (B, 3, S, S)."""
    torch.manual_seed(0)
    other = {"init_weights": False, "aux_logits": False}  # minutes; a head for training alone
    slow = other if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **slow)
    count = 2 if sum(p.numel() for p in network.parameters()) > LARGE else BATCH
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the statistics of this batch, and no average
    for size in SIZES:
        images = torch.randn(count, 3, size, size)
        try:
            network.eval()(images[:1])
            if norms:
                network.train()(images)
        except Exception:  # too small for it
            continue
        return network.eval(), images
    raise AktError(f"{name} runs on no square images of {SIZES} pixels")


class ByPyTorch(fx.Interpreter):
    """A traced network, quantized at the nodes and layers named by PyTorch alone."""

    def __init__(self, network: fx.GraphModule, layers: list[str], ends: list[str]) -> None:
        """Round the layers' weights; the network is changed."""
        super().__init__(network)
        self.ends = ends
        for name in layers:
            weight = network.get_submodule(name).weight
            observer = PerChannelMinMaxObserver(0, torch.quint8, torch.per_channel_affine)
            observer(weight.data)
            scale, zero = observer.calculate_qparams()
            weight.data = torch.fake_quantize_per_channel_affine(
                weight.data, scale, zero.int(), 0, 0, 255
            )

    def run_node(self, n: fx.Node) -> Any:
        """What the node gives, rounded if an activation ends there."""
        y = super().run_node(n)
        if n.name not in self.ends:
            return y
        observer = MinMaxObserver(torch.quint8, torch.per_tensor_affine)
        observer(y)
        scale, zero = observer.calculate_qparams()
        return torch.fake_quantize_per_tensor_affine(y, scale.item(), zero.item(), 0, 255)


@torch.no_grad()
def row(name: str) -> dict[str, Any]:
    """What becomes of one model, and in `refused` the reason if nothing does."""
    network, images = build(name)
    found: dict[str, Any] = {"model": name, "image_size": images.shape[-1]}
    try:
        student = quantize_model(network, 8, 8, ranges="minmax")
    except AktError as error:
        return found | {"refused": str(error)}
    t = network(images)
    noisy = network(images + 0.01 * torch.randn_like(images))
    s, teacher = student(images), trace(network)
    matched, norms = batch_norms(teacher)
    layers, ends = quantized_layers(student), quantized_activations(student)
    float_weights, float_activations = stays_in_float(student), activations_in_float(student)
    maps = len(residual_bodies(teacher))
    del network, student
    control = ByPyTorch(teacher, layers, ends).run(images)
    distances = {"error": s - t, "noise": noisy - t, "control": control - s}
    return found | {
        "layers": len(layers),
        "activations": len(ends),
        "float_weights": len(float_weights),
        "float_activations": len(float_activations),
        "maps": maps,
        "batch_norms": norms,
        "matched": matched,
        **{key: round((far.norm() / t.norm()).item(), 4) for key, far in distances.items()},
    }


def table(names: Iterable[str]) -> pd.DataFrame:
    """A row for each model."""
    rows = []
    for name in names:
        started = time.perf_counter()
        rows.append(row(name))
        print(f"{time.perf_counter() - started:5.1f} s  {rows[-1]}", flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models; all where none is named")
    parser.add_argument("--csv", type=Path, help="where to write the table")
    given = parser.parse_args()
    found = table(given.names or classification_models())
    if given.csv:
        counts = found.select_dtypes("number").columns.difference(["error", "noise", "control"])
        found[counts] = found[counts].astype("Int64")
        found.to_csv(given.csv, index=False)
