"""JSON that verifies itself, object by object and line by line, and the types of what is in it.

What was written before there were digests has none, and is taken at its word.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from akt_lab.errors import AktError
from akt_lab.files import CHANGED, SHA256, cannot_write, damaged, was_sealed

SEAL = f'"digest": "{SHA256}'  # what follows is the digest of all before it


def sealed(values: Mapping[str, Any], indent: int | None = None) -> str:
    """A JSON object whose last entry, `digest`, is that of the text before it."""
    text = json.dumps({**values, "digest": SHA256}, indent=indent)
    body, seal, end = text.rpartition(SEAL)
    return f"{body}{seal}{_digest(body)}{end}"


def unsealed(data: bytes) -> dict[str, Any]:
    """What was `sealed`; older text has no digest and is taken at its word.

    Raises:
        ValueError: if it is not what was written, or no JSON object.
    """
    text = data.decode().replace("\r\n", "\n")  # as git may keep it on Windows
    body, seal, end = text.rpartition(SEAL)
    # One that was hit in its seal is no older one: half of it is still there.
    if "".join(end.split()) != _digest(body) + '"}' if seal else was_sealed(text):
        raise ValueError(CHANGED)
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    values.pop("digest", None)
    return values


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add a sealed line for each row: all of them, on the disk when this returns, or none.

    Raises:
        AktError: if the disk is full or may not be written.
    """
    size = 0
    try:
        with open(path, "ab") as file:
            size = file.tell()
            file.writelines(sealed(row).encode() + b"\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):  # half a line would be in the next one's way
            os.truncate(path, size)
        raise cannot_write(path, error) from error


def read_lines(path: Path, then: str, half: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers, from 1, and values of a file's lines; a last one that was cut short is left out.

    Args:
        path: the file.
        then: what to do where a line is damaged.
        half: what is said on standard error of a last line that was cut short; nothing if empty.

    Raises:
        AktError: if it cannot be read.
        DamagedError: names the line.
    """
    *lines, last = read_bytes(path).split(b"\n")
    _, seal, end = last.rpartition(SEAL.encode())
    if seal and len(end) >= len(_digest("") + '"}'):  # its end of line alone is cut, or was hit
        lines.append(last)
    elif last and half:
        what = f"{path}, line {len(lines) + 1}"
        print(f"{what}, was cut short and is left out: {half}", file=sys.stderr)
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, unsealed(line)
            except ValueError as error:
                raise damaged(f"{path}, line {number},", error, then) from error


def read_bytes(path: Path) -> bytes:
    """What a file holds.

    Raises:
        AktError: if there is no such file, or it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe, for which a reader would wait
        raise AktError(f"{path} cannot be read (it is not a file)")
    try:
        return path.read_bytes()
    except OSError as error:
        raise AktError(f"{path} cannot be read ({error.strerror or error})") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- types --------------------------------------------------------------------------------------


def fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a kind, as annotations name it.

    Any, a type (float takes whole numbers, int no bool), a union, `list[kind]`,
    `tuple[kind, ...]`, `dict[str, kind]`, a TypedDict, or `Annotated[kind, test]`.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Annotated, Required):
        return fits(value, inner[0]) and all(test(value) for test in inner[1:] if callable(test))
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, inner[1]) for each in value.values())
    if is_typeddict(kind):
        return isinstance(value, dict) and not misfits(value, kind)
    return type(value) in ((int, float) if kind is float else (kind,))


def misfits(values: Mapping[str, Any], kind: Any) -> list[str]:
    """The entries of a TypedDict that are missing, or not what they must be."""
    kinds = get_type_hints(kind, include_extras=True)
    wrong = [
        name for name, each in kinds.items() if name in values and not fits(values[name], each)
    ]
    return sorted(kind.__required_keys__ - values.keys()) + wrong
