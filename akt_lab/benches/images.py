"""Images to evaluate on: a folder with a folder for each class, or CIFAR's archive."""

import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from akt_lab.benches.folders import formats, list_images
from akt_lab.benches.pixels import in_colour
from akt_lab.benches.weights import begins_as
from akt_lab.errors import AktError

LARGEST = 4096  # pixels, height and width of an image as networks take it
IN_MEMORY = 2**30  # bytes of images up to which a folder is decoded at once
CHUNK = 32  # images that a thread decodes at a time
STRIP = 100  # times as long as wide: what is longer is not resized
LOOKED_AT = 8  # images of many, all over the folder, when it is read
TINY = 8192  # bytes of a file: below, threads wait for each other longer than they decode


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes (B, channels, S, S) -> (pixels from 0 to 1 - mean) / std, channels last."""
    mean_, std_ = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    normalised = (images.float() / 255 - mean_) / std_
    return normalised.contiguous(memory_format=torch.channels_last)


class FolderImages:
    """A folder's images, decoded when they are asked for; sliced and indexed like a tensor.

    Attributes:
        shape: (N, channels, S, S), of bytes.
        seen: what is to be said of those that were decoded.
    """

    def __init__(self, paths: Sequence[str], channels: int, size: int | None, resize: int | None):
        """Images resized to `resize` and cropped to `size`, unless None.

        Raises:
            AktError: if the first image cannot be read or is not square.
        """
        self.paths, self.channels, self.size, self.resize = paths, channels, size, resize
        self.seen: set[str] = set()
        self.shape = torch.Size((len(paths), *self._decode(paths[0]).shape))
        tiny = os.path.getsize(paths[0]) < TINY
        self.threads = 1 if tiny else min(32, (os.cpu_count() or 1) + 1)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.paths)

    def __getitem__(self, chosen: int | slice | Sequence[int]) -> Tensor:
        """Bytes (C, S, S) of one image, or (B, C, S, S) of several.

        Raises:
            AktError: an image that cannot be read, or differs from the first in size.
        """
        if isinstance(chosen, int):
            return self[[chosen]][0]
        paths = self.paths[chosen] if isinstance(chosen, slice) else [self.paths[i] for i in chosen]
        return self.decode(paths)

    def about(self) -> list[Any]:
        """How images are fitted, then each file's name and size: cheap where decoding is not."""
        root = len(os.path.commonpath(self.paths))
        files = [(p[root:].replace(os.sep, "/"), os.path.getsize(p)) for p in self.paths]
        return [self.channels, self.size, self.resize, *files]

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time, the next decoded while one is used."""
        parts = [self.paths[i : i + size] for i in range(0, len(self), size)]
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.decode, parts[0])
            for part in [*parts[1:], None]:
                images = coming.result()
                if part is not None:
                    coming = ahead.submit(self.decode, part)
                yield images

    def decode(self, paths: Sequence[str], progress: bool = False) -> Tensor:
        """Bytes (B, C, S, S) of the images at these paths, decoded in threads if they are large."""
        bar = tqdm(total=len(paths), desc="reading images", unit="image", disable=not progress)
        images = np.empty((len(paths), *self.shape[1:]), np.uint8)

        def decode(start: int) -> None:
            for i in range(start, min(start + CHUNK, len(paths))):
                images[i] = self._decode(paths[i], tuple(self.shape[1:]))
            bar.update(min(CHUNK, len(paths) - start))

        with bar, ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(decode, range(0, len(paths), CHUNK)))  # an error cancels the rest
        return torch.from_numpy(images)

    def _decode(self, path: str, shape: Sequence[int] | None = None) -> np.ndarray:
        try:
            with Image.open(path, formats=formats()) as picture:
                pixels = _fitted(picture, self.channels, self.size, self.resize, self.seen)
        except Exception as error:  # whatever a broken or a hostile file can raise
            reason = _reason(error, _beginning(path))
            raise AktError(f"{path} is not an image that can be read ({reason})") from error
        image = np.asarray(pixels).reshape(*pixels.size[::-1], -1).transpose(2, 0, 1)
        height, width = image.shape[1:]
        if height != width or height > LARGEST or (shape and image.shape != shape):
            wanted = "and as large as the first" if shape else f"and of up to {LARGEST} pixels"
            raise AktError(
                f"{path} is {width} x {height}: images must be square {wanted}; give --image-size"
            )
        return image


def _beginning(path: str) -> bytes:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(40)
    return b"?"


def _reason(error: Exception, begins: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return begins_as(begins) or "of no format that Pillow knows"
    return (str(error) or type(error).__name__).splitlines()[0]


def _fitted(
    picture: Any, channels: int, size: int | None, resize: int | None, seen: set[str]
) -> Any:
    """Grey or colour; unless `size` is None, the shorter side resized, and the middle cropped.

    What there is to say of it is added to `seen`.
    """
    from torchvision.transforms import functional as TF

    shown = "{} x {} pixels".format(*picture.size)
    if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or 2**31):
        raise ValueError(f"{shown} are too many")
    if size is not None and max(picture.size) > STRIP * min(picture.size):
        raise ValueError(f"{shown} are a strip")
    picture = in_colour(picture, seen)
    if channels == 1:
        picture = picture.convert("L")
    if size is None:
        return picture
    return TF.center_crop(TF.resize(picture, [resize or size]), [size])


def read_image_folder(
    folder: Path,
    channels: int,
    image_size: int | None = None,
    progress: bool = True,
    resize: int | None = None,
    notes: list[str] | None = None,
    option: str = "--data",
) -> tuple[Tensor | FolderImages, Tensor, tuple[str, ...]]:
    """Images of a folder with one folder for each class, as `folders.list_images` finds them.

    What to say of them, such as how many files were left out, is added to `notes`. Their shorter
    side is resized to `resize` pixels (where None, to `image_size`), and the middle `image_size`
    are kept. More than `IN_MEMORY` bytes of them are not held in memory. `option` is what the
    folder was named by.

    Returns:
        bytes (N, channels, S, S), labels (N,), and the classes' names.

    Raises:
        AktError: a folder that is not there, holds no classes or no images, an image that cannot
            be read, or images that are not square and of one size while `image_size` is None.
    """
    paths, labels, classes, said = list_images(folder, option)
    lazy = FolderImages(paths, channels, image_size, resize)
    held = lazy.shape.numel() <= IN_MEMORY
    images = lazy.decode(paths, progress) if held else lazy
    if not held:
        lazy.decode(paths[:: -(-len(paths) // LOOKED_AT)])
    if lazy.seen:
        said.append(f"among the images: {'; '.join(sorted(lazy.seen))}")
    if notes is not None:
        notes += said
    return images, torch.tensor(labels), classes


def decode_image(data: bytes, channels: int, size: int) -> Tensor:
    """One image file's bytes as a network takes it: bytes (channels, size, size), its middle.

    Raises:
        AktError: if it is not an image that can be read, or a strip that would be huge.
    """
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(io.BytesIO(data), formats=formats()) as picture:
            upright = ImageOps.exif_transpose(picture)
            upright.format = picture.format  # which a copy lacks, and tells the scale
            fitted = _fitted(upright, channels, size, None, set())
    except Exception as error:  # whatever a broken or a hostile file can raise
        reason = _reason(error, data)
        raise AktError(
            f"this file is not an image that can be read ({reason}): try a PNG or a JPEG"
        ) from error
    return pil_to_tensor(fitted)


# ---- CIFAR's archive ----------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Reads plain values and arrays of bytes; whatever else a pickle can call is refused."""

    CALLS = {  # noqa: RUF012
        "_reconstruct": lambda *_: np.empty(0, "u1"),
        "ndarray": None,
        "dtype": lambda name, *_: np.dtype(name, copy=True),
    }

    def find_class(self, module: str, name: str) -> Any:
        if not module.startswith("numpy") or name not in self.CALLS:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return self.CALLS[name]


CIFAR_FILES = {  # of CIFAR-10, which has five of its training images, and of CIFAR-100
    "test": ("test_batch", "test"),
    "train": (*(f"data_batch_{number}" for number in range(1, 6)), "train"),
}


def read_cifar(archive: Path, split: str = "test") -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """CIFAR-10's or -100's images, out of the archive that its university packed.

    Args:
        archive: as it was downloaded.
        split: `test`, 10,000 images; or `train`, 50,000.

    Returns:
        bytes (N, 3, 32, 32), labels (N,), and the classes' names.

    Raises:
        AktError: if the archive does not hold them.
    """
    wanted = (*CIFAR_FILES[split], "batches.meta", "meta")
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name, file = Path(member.name).name, tar.extractfile(member)
                if name in wanted and file:
                    found[name] = _ArraysOnly(file, encoding="latin1").load()
        meta = found.get("batches.meta") or found["meta"]
        names = meta.get("label_names") or meta["fine_label_names"]
        parts = [found[name] for name in CIFAR_FILES[split] if name in found]
        labels = [label for part in parts for label in part.get("labels") or part["fine_labels"]]
        images = torch.cat([torch.from_numpy(part["data"]).view(-1, 3, 32, 32) for part in parts])
        return images, torch.tensor(labels), tuple(names)
    except (tarfile.TarError, pickle.UnpicklingError, zlib.error, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise AktError(f"{archive} cannot be read ({reason})") from error
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise AktError(f"{archive} does not hold CIFAR's {split} images ({error!r})") from error
