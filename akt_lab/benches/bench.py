"""A bench, what it takes to load one again, and loading it."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn
from tqdm.auto import tqdm

from akt_lab.benches.digits import digits_split, load_digits
from akt_lab.benches.downloads import fetch
from akt_lab.benches.fit import asks_for_layout, check_fits
from akt_lab.benches.folders import check_folder
from akt_lab.benches.images import LARGEST, FolderImages, normalise, read_cifar, read_image_folder
from akt_lab.benches.known import BENCHES, KNOWN, Known
from akt_lab.benches.teacher import call_factory, load_weights
from akt_lab.errors import AktError, UsageError, one_line, unknown
from akt_lab.files import MADE_AGAIN, claim, damaged, fingerprint, load_tensors, save_tensors
from akt_lab.graph import trace
from akt_lab.methods import Method
from akt_lab.settings import is_of

NO_TRAINING = "method real trains on real images: give --train-data DIR, a folder of images a class"
EVALUATION_BATCH, EVALUATION_PIXELS = 200, 200 * 96 * 96
ON_A_GPU = 2**31  # bytes of images that stay there
LEAST_STD = 1e-3  # a quarter of a byte's step
Images = Tensor | FolderImages


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
        notes: what to know of its files, one line each: what was left out, converted, chosen.
        read_training: reads `training`.
    """

    name: str
    teacher: nn.Module
    images: Images
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    notes: tuple[str, ...] = ()
    read_training: Callable[[], tuple[Images, Tensor]] | None = None

    @cached_property
    def training(self) -> tuple[Images, Tensor]:
        """Training images, as `images`, and labels (N,): read when they are first asked for.

        No zero-shot method does.

        Raises:
            UsageError: if there are none, or they are those that a student is judged on.
            AktError: if they cannot be read, or are of other classes or another size.
        """
        if self.read_training is None:
            raise UsageError(NO_TRAINING)
        images, labels = self.read_training()
        if (size := images.shape[2]) != (other := self.image_size):
            raise AktError(
                f"training images are {size} x {size}, those to evaluate on {other} x {other}: "
                "give --image-size"
            )
        if self._fingerprint_of(images, labels) == self.fingerprints["images"]:
            raise UsageError(
                "--train-data holds the images to evaluate on: a student must not learn from what "
                "it is judged by; name another folder"
            )
        return images, labels

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
        """How many images `batches` yields at a time: 200, fewer of large ones.

        On a GPU more of small ones: Python would take longer to ask for 200 than it for them.
        """
        most = EVALUATION_BATCH if self.device.type == "cpu" else 10 * EVALUATION_BATCH
        return max(1, min(most, EVALUATION_PIXELS // self.image_size**2))

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
        parts = (part.split(self.batch_size) for part in self._at_hand)
        for images, labels in zip(*parts, strict=True):
            yield self.normalise(images.to(self.device)), labels.to(self.device)

    @cached_property
    def _at_hand(self) -> tuple[Images, Tensor]:
        """`images` and labels, on the device unless they are too many: moved there once."""
        if isinstance(self.images, Tensor) and self.images.nbytes <= ON_A_GPU:
            return self.images.to(self.device), self.labels.to(self.device)
        return self.images, self.labels

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the `teacher`'s weights, and of `images`, labels, classes and normalisation.

        16 hex digits each; of images too many to be held, files' names and sizes stand for them.
        """
        teacher = fingerprint(self.teacher.state_dict())
        return {"teacher": teacher, "images": self._fingerprint_of(self.images, self.labels)}

    @cached_property
    def _training_fingerprint(self) -> str:
        return self._fingerprint_of(*self.training)

    def _fingerprint_of(self, images: Images, labels: Tensor) -> str:
        # Five digits: a mean over all images differs in its last with the number of threads.
        scale = [f"{value:.5g}" for value in (*self.mean, *self.std)]
        held, about = {"labels": labels}, [self.classes, scale]
        if isinstance(images, FolderImages):
            about += images.about()
        else:
            held["images"] = images
        return fingerprint(held, about)

    def fingerprints_of(self, method: Method) -> dict[str, str]:
        """`fingerprints` of what a run of the method sees: of real ones' `training` images, too."""
        seen = {"training": self._training_fingerprint} if method.real else {}
        return self.fingerprints | seen

    def differs_from(self, recorded: Mapping[str, str]) -> str | None:
        """In what this bench is not that of the `recorded` fingerprints, in words; or None."""
        words = {"teacher": "the teacher's weights", "images": "the evaluation images"}
        changed = [words[k] for k, v in self.fingerprints.items() if recorded.get(k, v) != v]
        if "training" in recorded and recorded["training"] != self._training_fingerprint:
            changed.append("the training images")
        return " and ".join(changed) or None


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
        train_data: a folder as `data`, for methods that see real images, and only for those.
    """

    bench: str | None = "digits"
    teacher: str | None = None
    weights: str | None = None
    data: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    train_data: str | None = None

    @property
    def name(self) -> str:
        """What a table or figure calls the bench."""
        return self.teacher or str(self.bench)

    @property
    def has_training(self) -> bool:
        """Whether there are training images: a folder's, or those of the bench that is named."""
        if self.train_data or self.teacher:
            return self.train_data is not None
        known = KNOWN.get(str(self.bench))
        return known is None or (known.archive is not None and not self.data)

    def seen_by(self, method: Method) -> "BenchSpec":
        """For a record: without the training images where the method sees none of them.

        Raises:
            UsageError: if the method needs them, and there are none.
        """
        if method.real and not self.has_training:
            raise UsageError(NO_TRAINING)
        return self if method.real else replace(self, train_data=None)

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BenchSpec":
        """From a record.

        Raises:
            UsageError: for a name that is not one of ours, or a value that is none of its kind.
        """
        if not isinstance(values, Mapping):
            raise UsageError(f"a bench is names and values, not {values!r}")
        kinds = {f.name: f.type for f in fields(cls)}
        plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, value in plain.items():
            if name not in kinds:
                raise unknown("entry of a bench", name, kinds)
            if not is_of(value, kinds[name]):
                raise UsageError(f"{name} of a bench cannot be {value!r}")
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
    images: Images
    notes: list[str] = []
    if spec.teacher is None and spec.bench == "digits":
        teacher, images, labels, names, mean, std = load_digits(_cache(), progress)
        read: Any = _digits_training
    else:
        known = None if spec.teacher else KNOWN[spec.name]
        teacher = known.build() if known else call_factory(spec.name)
        source = known.weights if known and not spec.weights else None
        path = fetch(source, _cache() / source.file, progress) if source else spec.weights
        notes += load_weights(teacher, Path(str(path)), source)
        mean = spec.mean or (known.mean if known else ())
        std = spec.std or (known.std if known else ())
        images, labels, names = _images(spec, known, len(mean), progress, notes)
        read = partial(_training, spec, known, names, len(mean), progress)
    some = normalise(images[:2], mean, std)
    if asks_for_layout(teacher.eval(), some):
        teacher = trace(teacher)
    notes += check_fits(teacher, some, names)
    if progress:
        _say(spec, notes)
    teacher.to(device)
    if all(t.ndim < 5 for t in teacher.state_dict().values()):  # which has no place for Conv3d's
        teacher.to(memory_format=torch.channels_last)
    place = torch.device(device)
    if place.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # its default rounds what results are compared by
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or --deterministic is not
    own = read if spec.has_training else None
    return Bench(spec.name, teacher, images, labels, names, mean, std, place, tuple(notes), own)


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


def _say(spec: BenchSpec, notes: Sequence[str]) -> None:
    for note in notes:
        tqdm.write(one_line(f"{spec.name}: {note}"), file=sys.stderr)


def _images(
    spec: BenchSpec,
    known: Known | None,
    channels: int,
    progress: bool,
    notes: list[str],
    split: str = "test",
) -> tuple[Images, Tensor, tuple[str, ...]]:
    """Images, labels and classes: those of the folder that was named, or the bench's own.

    What is to say of them is added to `notes`; `split` is `test`, or `train` for training images.
    """
    option, data = ("--data", spec.data) if split == "test" else ("--train-data", spec.train_data)
    if data or known is None or known.archive is None:
        resize, crop = (known.resize, known.crop) if known else (None, None)
        if spec.image_size:
            resize, crop = None, spec.image_size
        return read_image_folder(Path(str(data)), channels, crop, progress, resize, notes, option)
    source = known.archive
    kept = _cache() / f"{source.file.removesuffix('.tar.gz')}-{split}.safetensors"
    if not kept.exists():
        images, labels, names = read_cifar(fetch(source, _cache() / source.file, progress), split)
        with claim(kept.parent):
            save_tensors(kept, {"images": images, "labels": labels}, {"classes": names})
    tensors, state = load_tensors(kept, MADE_AGAIN)
    try:
        return tensors["images"], tensors["labels"], tuple(state["classes"])
    except (KeyError, TypeError) as error:
        raise damaged(kept, f"no {error}", MADE_AGAIN) from error


def _digits_training() -> tuple[Images, Tensor]:
    return digits_split()[0]


def _training(
    spec: BenchSpec, known: Known | None, classes: tuple[str, ...], channels: int, progress: bool
) -> tuple[Images, Tensor]:
    """Training images and labels, of the same classes as those to evaluate on."""
    notes: list[str] = []
    images, labels, names = _images(spec, known, channels, progress, notes, "train")
    if names != classes:
        odd = sorted({*names} ^ {*classes})
        why = f"{odd[0]} is in one of them alone" if odd else "they come in another order"
        raise AktError(
            f"--train-data {spec.train_data}: its classes are not those of the images to evaluate "
            f"on, {why}: name a folder with the same class folders"
        )
    if progress:
        _say(spec, notes)
    return images, labels


def _check_complete(spec: BenchSpec) -> None:
    options = ("weights", "data", "mean", "std", "image_size", "train_data")
    given = [name for name in options if getattr(spec, name) is not None]
    if spec.teacher is None and spec.bench == "digits":
        if given:
            raise UsageError(
                f"--bench digits has its own teacher and images: drop {_option(given[0])}"
            )
        return
    if spec.teacher is None and spec.bench not in KNOWN:
        raise unknown("bench", spec.name, BENCHES)
    forms = {"weights": "--weights FILE", "data": "--data DIR (a folder of images a class)"}
    needed = ["weights", "data"]
    archive = None if spec.teacher is not None else KNOWN[spec.name].archive
    if spec.teacher is None:  # ImageNet's images may not be passed on
        needed = [] if archive else ["data"]
    if missing := [forms[name] for name in needed if name not in given]:
        name = f"--{'teacher' if spec.teacher else 'bench'} {spec.name}"
        raise UsageError(f"{name} needs {' and '.join(missing)}; --bench digits needs nothing")
    if archive and spec.image_size is not None and spec.data is None:
        raise UsageError(f"--bench {spec.name} has its own images, of 32 x 32: drop --image-size")
    if spec.weights is not None and not Path(spec.weights).is_file():
        is_folder = Path(spec.weights).is_dir()
        why = (
            f"{spec.weights} is a folder: name a file in it"
            if is_folder
            else f"no file {spec.weights}"
        )
        raise AktError(f"--weights: {why}")
    if spec.data is not None:
        check_folder(Path(spec.data))
    if spec.image_size is not None and not 1 <= spec.image_size <= LARGEST:
        raise UsageError(f"--image-size must be from 1 to {LARGEST} pixels, not {spec.image_size}")
    if spec.teacher is not None and not (spec.mean and spec.std):
        raise UsageError("--teacher needs --mean and --std, one number for each colour channel")
    if len(spec.mean or ()) != len(spec.std or ()) or len(spec.mean or (0,)) not in (1, 3):
        raise UsageError("--mean and --std take one number each (grey) or three each (colour)")
    _check_scale(spec.mean or (), spec.std or ())


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a normalisation that is not of pixels from 0 to 1."""
    for name, values, least in (("mean", mean, 0.0), ("std", std, LEAST_STD)):
        for value in values:
            if not least <= value <= 1:
                hint = ""
                if 1 < value <= 255:
                    hint = f": did you mean {value:g}/255 = {value / 255:.4g}"
                    hint += ", and --std divided by 255, too?" if name == "mean" else "?"
                raise UsageError(
                    f"--{name} is of pixels on the scale 0 to 1, so from {least:g} to 1, not "
                    f"{value:g}{hint}"
                )
