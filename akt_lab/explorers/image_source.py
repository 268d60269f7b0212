"""Where an explorer's image comes from: the bench, a file that was dropped in, or a generator."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as w
import torch
from torch import Tensor

from akt_lab.benches import Bench
from akt_lab.benches.images import decode_image
from akt_lab.errors import AktError
from akt_lab.explorers.explorer import menu, slider
from akt_lab.explorers.students import Kept, with_generator
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator

BENCH, SYNTHETIC, FILE = "evaluation image", "synthetic", "your file"
NUMBERS = range(50)  # of a class's images, or seeds


class Images:
    """Controls that choose one image, and that image.

    Attributes:
        controls: by the names that `get` takes.
        rows: the same, in the order of the screen.
    """

    def __init__(self, bench: Bench, runs: Sequence[Run]) -> None:
        """Images of `bench`, and of the generator of one of its `runs`."""
        self.bench = bench
        self.runs = with_generator(runs)
        about = f"synthetic: by {self.runs[0].folder}" if self.runs else "where it comes from"
        sources = [BENCH, *([SYNTHETIC] if self.runs else []), FILE]
        classes = [(name, number) for number, name in enumerate(bench.classes)]
        self.generator = Kept(lambda run, epoch: load_generator(run, bench, epoch))
        self.controls: dict[str, Any] = {
            "source": menu("image", sources, BENCH, about),
            "label": menu("class", classes, 0, "of the image"),
            "number": slider("number", NUMBERS, 0, "which image of its class; the seed, if made"),
            "file": w.FileUpload(
                accept="image/*", description="Drop or choose a file", tooltip="PNG, JPEG, ...",
                layout=w.Layout(width="16em"),
            ),
        }  # fmt: skip
        c = self.controls
        self.rows = [[c["source"], c["file"]], [c["label"], c["number"]]]

    def follow(self) -> None:
        """Only what matters for the source can be used."""
        source = self.controls["source"].value
        self.controls["file"].disabled = source != FILE
        for name in ("label", "number"):
            self.controls[name].disabled = source == FILE

    @torch.inference_mode()
    def get(self, source: str, label: int, number: int, file: Sequence[Any]) -> Tensor:
        """The chosen image (1, channels, S, S), normalised.

        Raises:
            AktError: if there is none, or it cannot be read.
        """
        if source == SYNTHETIC:
            generator = self.generator(self.runs[0])
            rng = torch.Generator().manual_seed(number)
            return generator(torch.randn(1, generator.latent, generator=rng), torch.tensor([label]))
        if source == FILE:
            if not file:
                raise AktError("choose an image file, or drop one on the button")
            data = bytes(file[-1]["content"])
            image = decode_image(data, self.bench.channels, self.bench.image_size)
        else:
            those = (self.bench.labels == label).nonzero().flatten()
            image = self.bench.images[int(those[number % len(those)])]
        return self.bench.normalise(image[None])
