"""A bench, what it takes to load one again, and loading it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from akt_lab.benches.digits import load_digits
from akt_lab.benches.downloads import fetch
from akt_lab.benches.images import FolderImages, normalise, read_cifar, read_image_folder
from akt_lab.benches.known import BENCHES, KNOWN, Known
from akt_lab.benches.teacher import call_factory, load_weights
from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.files import claim, fingerprint, load_tensors, save_tensors
from akt_lab.graph import trace

EVALUATION_BATCH, EVALUATION_PIXELS = 200, 200 * 96 * 96


@dataclass(frozen=True)
class Bench:
    """A teacher, and what it is judged on.

    Attributes:
        name: as on the command line, or the teacher's `module:function`.
        teacher: in eval mode.
        images: (N, channels, S, S), bytes; decoded when used where they are too many to be held.
        labels: (N,).
        classes: their names, in the order of the teacher's logits.
        mean, std: of each channel, on the scale 0 to 1.
        device: where batches and networks go.
    """

    name: str
    teacher: nn.Module
    images: Tensor | FolderImages
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[2]

    @property
    def batch_size(self) -> int:
        """How many images `batches` yields at a time: 200, fewer of large ones."""
        return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // self.image_size**2))

    @property
    def num_batches(self) -> int:
        """How many `batches` yields."""
        return -(-len(self.images) // self.batch_size)

    def normalise(self, images: Tensor) -> Tensor:
        """Bytes (B, channels, S, S) -> the teacher's input space, channels last."""
        return normalise(images, self.mean, self.std)

    def pixels(self, images: Tensor) -> Tensor:
        """The teacher's input space -> values from 0 to 1, (B, channels, S, S), to be shown."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images.cpu() * std + mean).clamp(0, 1)

    def shown(self, images: Tensor) -> np.ndarray:
        """The same for Matplotlib: (B, S, S) in grey, (B, S, S, 3) in colour."""
        pixels = self.pixels(images).permute(0, 2, 3, 1).numpy()
        return pixels[..., 0] if self.channels == 1 else pixels

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised evaluation images (B, channels, S, S) and labels (B,), on the device."""
        parts = self.images.split(self.batch_size), self.labels.split(self.batch_size)
        for images, labels in zip(*parts, strict=True):
            yield self.normalise(images.to(self.device)), labels.to(self.device)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the `teacher`'s weights, and of `images`, labels, classes and normalisation.

        16 hex digits each; of images too many to be held, files' names and sizes stand for them.
        """
        # Five digits: a mean over all images differs in its last with the number of threads.
        scale = [f"{value:.5g}" for value in (*self.mean, *self.std)]
        held, about = {"labels": self.labels}, [self.classes, scale]
        if isinstance(self.images, FolderImages):
            about += self.images.about()
        else:
            held["images"] = self.images
        teacher = fingerprint(self.teacher.state_dict())
        return {"teacher": teacher, "images": fingerprint(held, about)}

    def differs_from(self, recorded: Mapping[str, str]) -> str | None:
        """In what this bench is not that of the `recorded` fingerprints, in words; or None."""
        words = {"teacher": "the teacher's weights", "images": "the evaluation images"}
        changed = [k for k, v in self.fingerprints.items() if recorded.get(k, v) != v]
        return " and ".join(words[k] for k in changed) or None


@dataclass(frozen=True)
class BenchSpec:
    """What it takes to load a bench again; kept in every run's record.

    Attributes:
        bench: a name of `BENCHES`; None for one's own.
        teacher: `module:function` that returns one's own network.
        weights: a .safetensors file, or a .pth file of a state dict.
        data: a folder with one folder of images for each class.
        mean, std: of each channel, on the scale 0 to 1.
        image_size: to which images are resized and cropped; as they are where None.
    """

    bench: str | None = "digits"
    teacher: str | None = None
    weights: str | None = None
    data: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None

    @property
    def name(self) -> str:
        """What a table or figure calls the bench."""
        return self.teacher or str(self.bench)

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BenchSpec":
        """From a record."""
        plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def load_bench(
    spec: BenchSpec | str = "digits", device: str = "cpu", progress: bool = True
) -> Bench:
    """The bench of this name, or that `spec` describes.

    Raises:
        UsageError: an unknown name, or something that is missing or does not go together.
        AktError: a teacher, weights or images that cannot be used; says why.
    """
    spec = BenchSpec(spec) if isinstance(spec, str) else spec
    _check_complete(spec)
    images: Tensor | FolderImages
    if not spec.teacher and spec.bench == "digits":
        teacher, images, labels, names, mean, std = load_digits(_cache(), progress)
    else:
        known = None if spec.teacher else KNOWN[spec.name]
        teacher = known.build() if known else call_factory(spec.name)
        source = known.weights if known and not spec.weights else None
        path = fetch(source, _cache() / source.file, progress) if source else spec.weights
        load_weights(teacher, Path(str(path)), source)
        mean = spec.mean or (known.mean if known else ())
        std = spec.std or (known.std if known else ())
        images, labels, names = _images(spec, known, len(mean), progress)
    bench = Bench(spec.name, teacher.eval(), images, labels, names, mean, std, torch.device(device))
    if _views(bench):
        bench = replace(bench, teacher=trace(bench.teacher))
    _check_fits(bench)
    bench.teacher.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    return bench


# ---- a bench's parts -----------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where teachers and downloads are kept: $AKT_LAB_CACHE, or the user's cache folder."""
    return Path(os.environ.get("AKT_LAB_CACHE") or user_cache_path("akt-lab"))


def _cache() -> Path:
    """The cache folder, made if it is not there."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AktError(
            f"{folder} cannot be made: set AKT_LAB_CACHE to a folder that can"
        ) from error
    return folder


def _images(
    spec: BenchSpec, known: Known | None, channels: int, progress: bool
) -> tuple[Tensor | FolderImages, Tensor, tuple[str, ...]]:
    """Images, labels and classes: those of the folder that was named, or the bench's own."""
    if spec.data or known is None or known.archive is None:
        resize, crop = (known.resize, known.crop) if known else (None, None)
        if spec.image_size:
            resize, crop = None, spec.image_size
        return read_image_folder(Path(str(spec.data)), channels, crop, progress, resize)
    source = known.archive
    kept = _cache() / f"{source.file.removesuffix('.tar.gz')}-test.safetensors"
    if not kept.exists():
        images, labels, names = read_cifar(fetch(source, _cache() / source.file, progress))
        with claim(kept.parent):
            save_tensors(kept, {"images": images, "labels": labels}, {"classes": names})
    tensors, state = load_tensors(kept)
    return tensors["images"], tensors["labels"], tuple(state["classes"])


def _check_complete(spec: BenchSpec) -> None:
    options = ("weights", "data", "mean", "std", "image_size")
    given = [name for name in options if getattr(spec, name)]
    if not spec.teacher and spec.bench == "digits":
        if given:
            raise UsageError(f"--bench digits has its own teacher and images: drop --{given[0]}")
        return
    if not spec.teacher and spec.bench not in KNOWN:
        raise unknown("bench", spec.name, BENCHES)
    forms = {"weights": "--weights FILE", "data": "--data DIR (a folder of images a class)"}
    needed = ["weights", "data"]
    if not spec.teacher:  # ImageNet's images may not be passed on
        needed = [] if KNOWN[spec.name].archive else ["data"]
    if missing := [forms[name] for name in needed if name not in given]:
        name = f"--{'teacher' if spec.teacher else 'bench'} {spec.name}"
        raise UsageError(f"{name} needs {' and '.join(missing)}; --bench digits needs nothing")
    if spec.weights and not Path(spec.weights).is_file():
        raise AktError(f"--weights: no file {spec.weights}")
    if spec.data and not Path(spec.data).is_dir():
        raise AktError(f"--data {spec.data}: no such folder")
    if spec.teacher and not (spec.mean and spec.std):
        raise UsageError("--teacher needs --mean and --std, one number for each colour channel")
    if len(spec.mean or ()) != len(spec.std or ()) or len(spec.mean or (0,)) not in (1, 3):
        raise UsageError("--mean and --std take one number each (grey) or three each (colour)")
    if any(value <= 0 for value in spec.std or ()):
        raise UsageError("--std must be positive")


@torch.inference_mode()
def _views(bench: Bench) -> bool:
    """Whether the teacher asks for a memory layout, by `view`: channels-last is not it."""
    try:
        bench.teacher(bench.normalise(bench.images[:1]))
    except RuntimeError as error:
        return "view size is not compatible" in str(error)
    except Exception:  # `_check_fits` says what
        pass
    return False


@torch.inference_mode()
def _check_fits(bench: Bench) -> None:
    """Run one image through the teacher: its channels and classes must be those of the images."""
    first = next((m for m in bench.teacher.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != bench.channels:
        raise AktError(
            f"the teacher takes {first.in_channels} channels, but --mean and --std describe "
            f"{bench.channels}: give {first.in_channels} numbers each"
        )
    try:
        logits = bench.teacher(bench.normalise(bench.images[:1]))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AktError(f"the teacher cannot run on these images ({reason})") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise AktError("the teacher must return logits (B, classes), one tensor")
    if logits.shape[1] != bench.num_classes:
        raise AktError(
            f"the teacher knows {logits.shape[1]} classes, --data holds {bench.num_classes} folders"
        )
