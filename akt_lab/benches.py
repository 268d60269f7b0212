"""Benches: a teacher, the images to evaluate on, and their normalisation.

`digits` works offline and trains its own teacher on first use; `cifar10` and `cifar100` are the
paper's networks; and a bench of your own is any function that returns a network, with
`.safetensors` weights and a folder of images.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.digits import DIGITS_EPOCHS, DigitsNet, digits_split, train_digits_teacher
from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.runs import load_tensors, save_tensors

CIFAR_MEAN = (0.49139968, 0.48215827, 0.44653124)
CIFAR_STD = (0.24703233, 0.24348505, 0.26158768)
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Bench:
    """A teacher, and what it is judged on.

    Attributes:
        name: as on the command line, or the teacher's `module:function`.
        teacher: in eval mode.
        images: (N, channels, S, S), bytes.
        labels: (N,).
        classes: their names, in the order of the teacher's logits.
        mean, std: of each channel, on the scale 0 to 1.
        device: where batches and networks go.
    """

    name: str
    teacher: nn.Module
    images: Tensor
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
    def num_batches(self) -> int:
        """How many `batches` yields."""
        return -(-len(self.images) // EVALUATION_BATCH)

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
        for start in range(0, len(self.images), EVALUATION_BATCH):
            chosen = slice(start, start + EVALUATION_BATCH)
            images = self.normalise(self.images[chosen].to(self.device))
            yield images, self.labels[chosen].to(self.device)


@dataclass(frozen=True)
class BenchSpec:
    """What it takes to load a bench again; kept in every run's record.

    Attributes:
        bench: `digits`, `cifar10` or `cifar100`; None for one's own.
        teacher: `module:function` that returns one's own network.
        weights: a .safetensors file.
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
    teacher, mean, std, classes = _known(spec) if spec.teacher is None else _own(spec)
    if spec.weights:
        load_weights(teacher, Path(spec.weights))
    images, labels, names = read_image_folder(
        Path(spec.data or ""), len(mean), spec.image_size, progress
    )
    name = spec.teacher or str(spec.bench)
    bench = Bench(name, teacher.eval(), images, labels, names, mean, std, torch.device(device))
    _check_fits(bench, classes)
    bench.teacher.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    return bench


# ---- the paper's benches, and one's own ---------------------------------------------------------

KNOWN = {
    "cifar10": ("resnet20_cifar10", CIFAR_MEAN, CIFAR_STD, 10),
    "cifar100": ("resnet20_cifar100", CIFAR100_MEAN, CIFAR100_STD, 100),
}
BENCHES = ("digits", *KNOWN)


def _check_complete(spec: BenchSpec) -> None:
    if spec.teacher is None and spec.bench not in KNOWN:
        raise unknown("bench", str(spec.bench), BENCHES)
    if not spec.data or (spec.teacher is None and not spec.weights):
        name = f"--teacher {spec.teacher}" if spec.teacher else f"--bench {spec.bench}"
        raise UsageError(
            f"{name} needs --weights FILE.safetensors and --data DIR (a folder of images for each "
            "class); nothing is downloaded. --bench digits needs neither"
        )
    if spec.teacher and not (spec.mean and spec.std):
        raise UsageError("--teacher needs --mean and --std, one number for each colour channel")
    if len(spec.mean or ()) != len(spec.std or ()) or len(spec.mean or (0,)) not in (1, 3):
        raise UsageError("--mean and --std take one number each (grey) or three each (colour)")
    if any(value <= 0 for value in spec.std or ()):
        raise UsageError("--std must be positive")


def _known(spec: BenchSpec) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...], int]:
    from pytorchcv.model_provider import get_model

    architecture, mean, std, classes = KNOWN[str(spec.bench)]
    return get_model(architecture), spec.mean or mean, spec.std or std, classes


def _own(spec: BenchSpec) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...], None]:
    return call_factory(str(spec.teacher)), spec.mean or (), spec.std or (), None


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


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a .safetensors file into a network.

    Raises:
        AktError: if they do not fit; names the tensors.
    """
    tensors, _ = load_tensors(path)
    expected = network.state_dict()
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


def read_image_folder(
    folder: Path, channels: int, image_size: int | None = None, progress: bool = True
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images of a folder with one folder for each class, in alphabetical order.

    Returns:
        bytes (N, channels, S, S), labels (N,), and the classes' names.

    Raises:
        AktError: a folder that is not there, holds no classes or no images, an image that cannot
            be read, or images that are not square and of one size while `image_size` is None.
    """
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise AktError(f"--data {folder}: no such folder")
    try:
        dataset = ImageFolder(str(folder), transform=_image_reader(channels, image_size))
    except FileNotFoundError as error:
        raise AktError(
            f"--data {folder}: expected one folder of images for each class, such as "
            f"{folder}/cat/0001.jpg ({str(error).splitlines()[0]})"
        ) from error
    pictures: list[Tensor] = []
    for path, _ in tqdm(dataset.samples, desc="reading images", unit="image", disable=not progress):
        pictures.append(_read(dataset, path, pictures[0].shape if pictures else None))
    return torch.stack(pictures), torch.tensor(dataset.targets), tuple(dataset.classes)


def _read(dataset: Any, path: str, shape: torch.Size | None) -> Tensor:
    try:
        image = dataset.transform(dataset.loader(path))
    except (OSError, SyntaxError) as error:
        raise AktError(f"{path} is not an image that can be read ({error})") from error
    if image.shape[1] != image.shape[2] or (shape and image.shape != shape):
        raise AktError(f"{path} is {tuple(image.shape[1:])}: images differ; give --image-size")
    return image


def _image_reader(channels: int, image_size: int | None) -> Callable[[Any], Tensor]:
    from torchvision import transforms as T

    grey = [T.Grayscale()] if channels == 1 else []
    resize = [T.Resize(image_size), T.CenterCrop(image_size)] if image_size else []
    return T.Compose([*grey, *resize, T.PILToTensor()])


@torch.inference_mode()
def _check_fits(bench: Bench, classes: int | None) -> None:
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
    if logits.shape[1] != bench.num_classes or classes not in (None, bench.num_classes):
        raise AktError(
            f"the teacher knows {logits.shape[1]} classes, --data holds {bench.num_classes} folders"
        )


# ---- digits ------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where the digits teacher is kept: $AKT_LAB_CACHE, or the user's cache folder."""
    return Path(os.environ.get("AKT_LAB_CACHE") or user_cache_path("akt-lab"))


def _make_cache(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AktError(
            f"{folder} cannot be made: set AKT_LAB_CACHE to a folder that can"
        ) from error


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
        _make_cache(path.parent)
        save_tensors(path, teacher.state_dict(), {"epochs": DIGITS_EPOCHS})
    teacher.eval().to(device=bench.device, memory_format=torch.channels_last)  # type: ignore
    return bench
