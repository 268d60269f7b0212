"""A bench, what it takes to load one again, and loading it."""

import functools
import hashlib
import importlib
import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from akt_lab.benches.digits import DIGITS_EPOCHS, DigitsNet, digits_split, train_digits_teacher
from akt_lab.benches.downloads import Source, fetch
from akt_lab.benches.images import FolderImages, read_cifar, read_image_folder
from akt_lab.benches.known import BENCHES, KNOWN, Known
from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.files import load_tensors, save_tensors

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

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """What `teacher` and `images` are, as 16 digits each; the same on every device."""
        of_teacher, of_images = hashlib.sha256(), hashlib.sha256(repr(self.classes).encode())
        for name, tensor in self.teacher.state_dict().items():
            of_teacher.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        if isinstance(self.images, Tensor):
            of_images.update(self.images.numpy().tobytes())
        of_images.update(self.labels.numpy().tobytes())
        digests = {"teacher": of_teacher, "images": of_images}
        return {part: digest.hexdigest()[:16] for part, digest in digests.items()}

    def differs_from(self, recorded: Mapping[str, str]) -> str | None:
        """In what this bench is not that of the `recorded` fingerprints, in words; or None."""
        words = {"teacher": "the teacher's weights", "images": "the evaluation images"}
        changed = [k for k, v in self.fingerprints.items() if recorded.get(k, v) != v]
        return " and ".join(words[k] for k in changed) or None

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
        mean, std = (
            torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        normalised = (images.float() / 255 - mean) / std
        return normalised.contiguous(memory_format=torch.channels_last)

    def pixels(self, images: Tensor) -> Tensor:
        """The teacher's input space -> values from 0 to 1, (B, channels, S, S), to be shown."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images.cpu() * std + mean).clamp(0, 1)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised evaluation images (B, channels, S, S) and labels (B,), on the device."""
        parts = self.images.split(self.batch_size), self.labels.split(self.batch_size)
        for images, labels in zip(*parts, strict=True):
            yield self.normalise(images.to(self.device)), labels.to(self.device)


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
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain)


def load_bench(spec: BenchSpec, device: str = "cpu", progress: bool = True) -> Bench:
    """The bench that `spec` describes.

    Raises:
        UsageError: an unknown name, or something that is missing or does not go together.
        AktError: a teacher, weights or images that cannot be used; says why.
    """
    if spec.teacher is None and spec.bench == "digits":
        return _digits(spec, device, progress)
    _check_complete(spec)
    known = None if spec.teacher else KNOWN[str(spec.bench)]
    teacher = known.build() if known else call_factory(str(spec.teacher))
    _fill(teacher, spec, known, progress)
    mean = spec.mean or (known.mean if known else ())
    std = spec.std or (known.std if known else ())
    images, labels, names = _images(spec, known, len(mean), progress)
    bench = Bench(spec.name, teacher.eval(), images, labels, names, mean, std, torch.device(device))
    _check_fits(bench)
    bench.teacher.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    return bench


# ---- a bench's parts -----------------------------------------------------------------------------


def _fill(teacher: nn.Module, spec: BenchSpec, known: Known | None, progress: bool) -> None:
    """Give the teacher the weights that were named, or its own."""
    if spec.weights:
        load_weights(teacher, Path(spec.weights))
    elif known:
        path = fetch(known.weights, _cache() / known.weights.file, progress)
        load_weights(teacher, path, known.weights)


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
        archive = fetch(source, _cache() / source.file, progress)
        images, labels, names = read_cifar(archive)
        save_tensors(kept, {"images": images, "labels": labels}, {"classes": names})
    tensors, state = load_tensors(kept)
    return tensors["images"], tensors["labels"], tuple(state["classes"])


def _check_complete(spec: BenchSpec) -> None:
    if spec.teacher is None and spec.bench not in KNOWN:
        raise unknown("bench", str(spec.bench), BENCHES)
    needed = ["weights", "data"] if spec.teacher else []
    if spec.teacher is None and KNOWN[str(spec.bench)].archive is None:
        needed = ["data"]  # ImageNet's images may not be passed on
    missing = [name for name in needed if not getattr(spec, name)]
    if missing:
        form = {"weights": "--weights FILE", "data": "--data DIR (a folder of images a class)"}
        name = f"--teacher {spec.teacher}" if spec.teacher else f"--bench {spec.bench}"
        raise UsageError(
            f"{name} needs {' and '.join(form[n] for n in missing)}; --bench digits needs nothing"
        )
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


def call_factory(name: str) -> nn.Module:
    """The network that `module:function` returns, the current folder searched first.

    Raises:
        UsageError: if the name is not of that form.
        AktError: if there is no such module or function, or it does not return a network.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UsageError(
            f"--teacher takes module:function, for example my_nets:resnet, not {name!r}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module_name), function_name)
        network = function()
    except Exception as error:
        raise AktError(f"--teacher {name}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise AktError(f"--teacher {name} returned a {type(network).__name__}, not a network")
    return network


def load_weights(network: nn.Module, path: Path, source: Source | None = None) -> None:
    """Load a .safetensors file into a network, or a .pth file of a state dict.

    Of a file that was downloaded from `source`, what the network has not is left out.

    Raises:
        AktError: if they do not fit; names the tensors.
    """
    expected = network.state_dict()
    if path.suffix == ".safetensors":
        tensors, _ = load_tensors(path)
    else:
        tensors = _load_pth(path, source.member if source else None)
    if source:
        tensors = {name: t for name, t in tensors.items() if name in expected}
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    problems = [
        f"{name} is missing" for name in expected if name not in tensors | dict.fromkeys(optional)
    ]
    problems += [f"{name} is not in the network" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(t.shape)}, the network's {tuple(expected[name].shape)}"
        for name, t in tensors.items()
        if name in expected and t.shape != expected[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise AktError(f"{path} does not fit the teacher: {'; '.join(problems[:4])}{more}")
    network.load_state_dict(tensors, strict=False)


def _load_pth(path: Path, member: str | None) -> dict[str, Tensor]:
    """A state dict as PyTorch saves it; nothing that its pickle could call is called."""
    try:
        data = path.read_bytes()
        if member:
            data = zipfile.ZipFile(io.BytesIO(data)).read(member)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or a hostile file can raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AktError(f"{path} is not a file of weights ({reason})") from error
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise AktError(f"{path} holds no state dict: save one by torch.save(net.state_dict(), …)")
    return dict(found)


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


# ---- digits ------------------------------------------------------------------------------------


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


def _digits(spec: BenchSpec, device: str, progress: bool) -> Bench:
    given = [n for n in ("weights", "data", "mean", "std", "image_size") if getattr(spec, n)]
    if given:
        raise UsageError(f"--bench digits has its own teacher and images: drop --{given[0]}")
    (train, train_labels), (test, test_labels) = digits_split()
    values = train.float() / 255
    mean, std = (values.mean().item(),), (values.std().item(),)
    teacher, names = DigitsNet(), tuple("0123456789")
    bench = Bench("digits", teacher, test, test_labels, names, mean, std, torch.device(device))
    path = cache_folder() / "digits-teacher-1.safetensors"
    if path.exists():
        load_weights(teacher, path)
    else:
        train_digits_teacher(teacher, bench.normalise(train), train_labels, progress)
        save_tensors(_cache() / path.name, teacher.state_dict(), {"epochs": DIGITS_EPOCHS})
    teacher.eval().to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    return bench
