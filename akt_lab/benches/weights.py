"""Files of weights as they are found: their kind is told by what they hold, not by their names."""

import argparse
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from akt_lab.errors import AktError
from akt_lab.files import load_tensors

SAVE = "save one by torch.save(net.state_dict(), …)"
OTHERS = {  # how files begin that are something else
    b"": "it is empty",
    b"version https://git-lfs": "it is Git LFS's pointer to the file: `git lfs pull` brings it",
    b"<": "it is a web page, or other XML: download the file itself",
    b"\x93NUMPY": f"it is a NumPy array: {SAVE}",
    b"\x89HDF": f"it is an HDF5 file, as Keras writes them: {SAVE}",
    b"\x1f\x8b": "it is compressed: unpack it",
    b"GGUF": f"it is a GGUF file, whose weights are quantized already: {SAVE}",
}
SCALAR: Any = np.float64().__reduce__()[0]
HARMLESS: list[Any] = [argparse.Namespace, np.dtype]  # stand in checkpoints, and call nothing
HARMLESS += [(SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
HARMLESS += [type(np.dtype(name)) for name in ("bool", "f4", "f8", "i4", "i8")]


def read(path: Path, member: str | None = None) -> Mapping[Any, Any]:
    """What a .safetensors file holds, or one by `torch.save`, or this `member` of a .zip of them.

    Nothing that its pickle could call is called.

    Raises:
        AktError: if it is something else; says what.
    """
    try:
        data = path.read_bytes()
        if member:
            data = zipfile.ZipFile(io.BytesIO(data)).read(member)
        other = _other(path, data)
    except Exception as error:  # whatever a broken file can raise
        raise AktError(f"{path} is not a file of weights ({_first_line(error)})") from error
    if other:
        raise AktError(f"{path} is not a file of weights: {other}")
    by_torch = data[:2] in (b"PK", b"\x80\x02")  # whatever its name
    if data[8:9] == b"{" or (path.suffix == ".safetensors" and not by_torch):
        return load_tensors(path)[0]
    try:
        with torch.serialization.safe_globals(HARMLESS):
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or a hostile file can raise
        if pickled := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise AktError(
                f"{path} is not a file of weights alone: it holds {pickled[1]}, and to read that "
                "would run its code; if you trust it, torch.load it with weights_only=False, and "
                + SAVE
            ) from error
        reason = "neither .safetensors, nor by torch.save, or not whole"
        if data.startswith(b"PK") and "weights_only" not in str(
            error
        ):  # is how to run what it holds
            reason = _first_line(error)
        raise AktError(f"{path} is not a file of weights ({reason})") from error
    if not isinstance(found, Mapping):
        raise AktError(f"{path} holds no state dict: {SAVE}")
    return found


class Place(NamedTuple):
    """Where in a checkpoint a network's tensors may lie: under which entry, behind which prefix."""

    entry: str
    prefix: str
    tensors: dict[str, Tensor]

    def __str__(self) -> str:
        """As messages name it."""
        return repr(f"{self.entry}: {self.prefix}" if self.entry and self.prefix else
                    self.entry or self.prefix or "top level")  # fmt: skip

    def of(self, expected: Iterable[str]) -> dict[str, Tensor]:
        """Those of a network with these names, by them."""
        found = {name: self.tensors.get(self.prefix + name) for name in expected}
        return {name: t for name, t in found.items() if t is not None}

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is an average over training: those come beside another."""
        return re.search("ema|avg|average", self.entry + self.prefix, re.IGNORECASE) is not None


def fitted(
    found: Mapping[Any, Any], expected: Mapping[str, Tensor], path: Path, whose: str = "teacher"
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The state dict in a checkpoint that a network needs, whatever it is wrapped in.

    Looks into its entries (`state_dict`, `model`, ...), and for names behind a prefix (`module.`,
    `backbone.`, ...).

    Args:
        found: what the file holds.
        expected: the network's own state dict.
        path: the file's, for messages.
        whose: weights they are, for messages.

    Returns:
        tensors by the network's names, names there that the network has not, and what to say.

    Raises:
        AktError: if there is none, or several fit that differ.
    """
    if not found and not expected:
        return {}, [], []
    places = [
        Place(entry, prefix, tensors)
        for entry, tensors in _state_dicts(found)
        for prefix in _prefixes(tensors, expected)
    ]
    if not places:
        raise AktError(f"{path} holds no state dict: {SAVE}")
    most = max(len(place.of(expected)) for place in places)
    best = [place for place in places if len(place.of(expected)) == most]
    chosen, *others = [place for place in best if not place.averaged] or best
    taken = chosen.of(expected)
    if most and not all(_same(taken, other.of(expected)) for other in others):
        raise AktError(
            f"{path} holds several networks that fit ({', '.join(map(str, best))}): save the one "
            "you mean alone"
        )
    more = [name for name in chosen.tensors if name.removeprefix(chosen.prefix) not in taken]
    beside = [name for name in more if not name.startswith(chosen.prefix)]
    notes = []
    if most and (chosen.entry or chosen.prefix or len(best) > 1):
        instead = [str(place) for place in best if place is not chosen]
        also = f", not of {', '.join(instead)}" if instead else ""
        notes.append(f"the {whose}'s weights are those of {chosen}{also}")
    if beside:
        notes.append(f"{len(beside)} tensors beside them are left out: {_few(beside)}")
    return taken, [name for name in more if name not in beside], notes


def _state_dicts(found: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, dict]]:
    """All dictionaries of tensors in it and where they are, names without torch.compile's part."""
    if not isinstance(found, Mapping) or not depth:
        return
    entries = {name: value for name, value in found.items() if isinstance(name, str)}
    tensors = {n.replace("_orig_mod.", ""): t for n, t in entries.items() if isinstance(t, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in entries.items():
        yield from _state_dicts(value, f"{place}.{name}".lstrip("."), depth - 1)


def _prefixes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What may stand before the network's names; some of these are enough to tell."""
    names = list(expected)
    some = {*names[:2], *names[len(names) // 2 :][:1], *names[-2:]}
    prefixes = {n[: len(n) - len(name)] for name in some for n in tensors if n.endswith(name)}
    return ["", *sorted(prefix for prefix in prefixes if prefix.endswith("."))]


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(
        name in b and t.dtype == b[name].dtype and torch.equal(t, b[name]) for name, t in a.items()
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def begins_as(data: bytes) -> str | None:
    """What a file is that begins like this and is neither weights nor an image; None otherwise."""
    found = (why for start, why in OTHERS.items() if data.startswith(start) and (start or not data))
    return next(found, None)


def _other(path: Path, data: bytes) -> str | None:
    """What else the file is, and what to do; None where it may be one of weights."""
    if reason := begins_as(data):
        return reason
    if path.suffix == ".onnx" or re.match(rb"\x08.\x12.pytorch", data, re.S):
        return f"it is an ONNX program: of the network that it was made from, {SAVE}"
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return None
    names = [name.rpartition("/")[2] for name in zipfile.ZipFile(io.BytesIO(data)).namelist()]
    if "constants.pkl" in names:
        return f"it is a TorchScript program: torch.jit.load it, and {SAVE}"
    if all(name.endswith(".npy") for name in names):
        return f"it is an archive of NumPy arrays: {SAVE}"
    return None if "data.pkl" in names else f"it is a .zip of {_few(names)}: unpack it"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
