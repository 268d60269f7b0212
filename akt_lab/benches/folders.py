"""Which files of a folder are its classes' images: each once, and what is left out is told."""

import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFile

from akt_lab.errors import AktError

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")  # folders that systems make
NOT_READ = {"EPS", "MPEG", "WMF"}  # need another program, or hold no image that Pillow reads


class Listed(NamedTuple):
    """Images of a folder, class by class; `notes` are what to say of them."""

    paths: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    notes: list[str]


def list_images(folder: Path, option: str = "--data") -> Listed:
    """The images in each class's folder and below it, sorted as by torchvision's ImageFolder.

    Classes come in the order of their names, or of their numbers where all are whole numbers. An
    image is what has the ending of a format that Pillow reads, or where the ending says nothing,
    begins as one. Hidden files and what was met before, through a link, are left out.

    Args:
        folder: a folder of class folders.
        option: by which it was named, for what is said of it.

    Raises:
        AktError: what is no folder of classes with images in each, or cannot be read.
    """
    check_folder(folder, option)
    named = f"{option} {folder}"
    left_out: Counter[str] = Counter()
    try:
        top = sorted(os.scandir(folder), key=lambda entry: entry.name)
        names = [entry.name for entry in top if entry.is_dir() and not _hidden(entry.name)]
        classes, notes = _ordered(named, names)
        if not classes or {name.lower() for name in classes} <= SPLITS:
            raise AktError(f"{named}: {_no_classes(folder, top, classes)}")
        left_out["beside the class folders"] = len(top) - len(names)
        roots = [str(folder / name) for name in classes]
        met = {os.path.realpath(place) for place in (str(folder), *roots)}
        found: list[tuple[int, str, str, bool]] = []
        for n, root in enumerate(roots):
            found += ((n, *each) for each in _walk(root, met, left_out))
            if not found or found[-1][0] != n:  # at once: it may be the whole disk that was named
                raise _empty(option, folder, classes[n], left_out)
    except OSError as error:
        raise AktError(
            f"{option} {error.filename or folder} cannot be read: {error.strerror}"
        ) from error
    kept = _once(found, left_out)
    if empty := {*range(len(classes))} - {label for label, _ in kept}:
        raise _empty(option, folder, classes[min(empty)], left_out)
    if why := _why(left_out):
        notes.append(f"{named}{why}")
    return Listed([path for _, path in kept], [n for n, _ in kept], tuple(classes), notes)


def check_folder(path: Path, option: str = "--data") -> None:
    """Refuse with an AktError what is no folder; says what it is."""
    if not path.exists():
        raise AktError(f"{option} {path}: no such folder")
    if path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        raise AktError(
            f"{option} {path} is an archive: unpack it, and name the folder of class folders in it"
        )
    if not path.is_dir():
        raise AktError(
            f"{option} {path} is not a folder: name one with a folder of images for each class"
        )


@cache
def formats() -> list[str]:
    """Names of the formats that Pillow reads by itself, the usual ones first."""
    Image.init()
    stubs = {
        name
        for name, (factory, _) in Image.OPEN.items()
        if isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    }
    return [name for name in Image.ID if name not in stubs | NOT_READ]


@cache
def _endings() -> frozenset[str]:
    return frozenset(e for e, name in Image.registered_extensions().items() if name in formats())


def _walk(root: str, met: set[str], left_out: Counter[str]) -> Iterator[tuple[str, str, bool]]:
    """Each image's path, where it really lies, and whether it is a link."""
    folders, found = [root], []
    while folders:
        real = os.path.realpath(here := folders.pop())
        for entry in os.scandir(here):
            if _hidden(entry.name):
                left_out["hidden"] += 1
            elif entry.is_dir():
                below = os.path.realpath(entry.path)
                if below in met:
                    left_out["links to folders that are read anyway"] += 1
                else:
                    met.add(below)
                    folders.append(entry.path)
            elif not entry.is_file():  # a pipe would be waited for
                kind = "broken links" if entry.is_symlink() else "pipes, sockets or devices"
                left_out[kind] += 1
            elif not _is_image(entry.path):
                ending = os.path.splitext(entry.name)[1].lower()
                left_out[ending or "without an ending"] += 1
            else:
                link = entry.is_symlink()
                lies = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
                found.append((here, entry.name, lies, link))
    for here, name, lies, link in sorted(found):
        yield os.path.join(here, name), lies, link


def _once(
    found: Sequence[tuple[int, str, str, bool]], left_out: Counter[str]
) -> list[tuple[int, str]]:
    """Labels and paths, each file once: as itself before as what a link names."""
    first: dict[str, str] = {}
    for _, path, lies, _ in sorted(found, key=lambda each: each[3]):
        first.setdefault(lies, path)
    if doubled := len(found) - len(first):
        left_out["links to images that are read anyway"] = doubled
    return [(label, path) for label, path, lies, _ in found if first[lies] == path]


def _is_image(path: str) -> bool:
    """By its ending, or where that is none of a format's, by how it begins."""
    if os.path.splitext(path)[1].lower() in _endings():
        return True
    try:
        with Image.open(path, formats=formats()):
            return True
    except Exception:  # whatever a file that is no image can raise
        return False


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEMS


def _ordered(named: str, names: list[str]) -> tuple[list[str], list[str]]:
    """Classes of a folder so `named`, in their order, and what to say of it."""
    if not all(name.isdecimal() for name in names):
        natural = sorted(names, key=_natural)
        if natural == names:
            return names, []
        return names, [
            f"class folders are in the order of text ({_few(names)}), as torchvision's "
            f"ImageFolder has them, not of numbers ({_few(natural)})"
        ]
    by_number = sorted(names, key=int)
    for one, two in pairwise(by_number):
        if int(one) == int(two):
            raise AktError(f"{named}: folders {one} and {two} are the same number")
    if by_number == names:
        return names, []
    return by_number, [
        f"class folders are in the order of numbers ({_few(by_number)}), not of text "
        f"({_few(names)}), as torchvision's ImageFolder has them: for a teacher trained in that "
        "order, put a letter before each name"
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """For sorting as people count: class_2 before class_10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


# ---- what is wrong with it -----------------------------------------------------------------------


def _no_classes(folder: Path, top: list[os.DirEntry], classes: list[str]) -> str:
    """Why there are none: images lie here, one level up is meant; or the classes are below."""
    if below := [name for name in classes if any(f.is_dir() for f in (folder / name).iterdir())]:
        return (
            f"its folders are {', '.join(classes)}: name one of them, such as {folder / below[0]}"
        )
    expected = (
        f"expected one folder of images for each class, such as {folder / 'cat' / '0001.jpg'}"
    )
    images = sum(entry.is_file() and _is_image(entry.path) for entry in top)
    return expected + (f"; it holds {images} images itself: name its parent" if images else "")


def _empty(option: str, folder: Path, name: str, left_out: Counter[str]) -> AktError:
    return AktError(
        f"{option} {folder}: expected one folder of images for each class, such as "
        f"{folder / 'cat' / '0001.jpg'}; no image is in {name}{_why(left_out)}"
    )


def _why(left_out: Counter[str]) -> str:
    told = [f"{count} {kind}" for kind, count in left_out.most_common() if count]
    return f"; left out: {_few(told, 6)}" if told else ""


def _few(names: Sequence[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
