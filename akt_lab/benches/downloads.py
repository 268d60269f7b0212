"""Downloads: from the first source that is up to it, whole and verified, or not at all.

What comes is kept in a `.part` file beside the target, and the next try goes on where it ends, from
whichever source. Only a file whose checksum is right ever gets the target's name.
"""

import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from akt_lab.errors import AktError
from akt_lab.files import claim

STALL = 20.0  # seconds without a byte after which a source is given up
RATE, WINDOW = 200_000, 15.0  # bytes a second, over seconds: below, other sources come first
ROUNDS = 4  # how often sources that sent something, but not all of it, are asked
BLOCK = 1 << 18


@dataclass(frozen=True)
class Source:
    """A file, and where it is to be had.

    Attributes:
        urls: of byte-identical files, the preferred one first.
        checksum: `md5:`, `sha1:` or `sha256:` and hexadecimal digits, all of them or the first few.
        size: in bytes, as downloaded; None where it is not known.
        member: the file in it that `checksum` is of, if it is a .zip.
        instead: the option that spares the download.
    """

    urls: tuple[str, ...]
    checksum: str
    size: int | None = None
    member: str | None = None
    instead: str = "--data DIR"

    @property
    def file(self) -> str:
        """The downloaded file's name."""
        return self.urls[0].split("/")[-1]


class _Failed(Exception):
    """A source that did not send the file; `again`: it sent something, so ask it once more."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def fetch(source: Source, path: Path, progress: bool = True) -> Path:
    """The file at `path`, downloaded if it is not there, by one process at a time.

    Sources are tried in turn. A slow one (under `RATE` bytes a second) is left while there are
    others, and asked again when they have failed.

    Raises:
        AktError: if no source has it, the disk is full, or what lies at `path` is another file;
            one line that says what to do.
    """
    if not path.exists():
        with claim(path.parent, progress=progress):
            if not path.exists():  # another process may have brought it meanwhile
                _download(source, path, progress)
                return path
    if not _is_right(source, path):
        raise AktError(
            f"{path} is not the file it should be (its checksum is not {source.checksum}): delete "
            f"it, and it is downloaded again, or give {source.instead}"
        )
    return path


def _download(source: Source, path: Path, progress: bool) -> None:
    """Fill the `.part` file, verify it, and give it its name; what is wrong is deleted."""
    part = path.with_name(f"{path.name}.part")
    left, reasons = list(source.urls), {}
    for turn in range(ROUNDS):
        for url in tuple(left):
            least = RATE if turn == 0 and len(source.urls) > 1 else 0
            try:
                start = part.stat().st_size if part.exists() else 0
                if not start or start != source.size:
                    start = _receive(url, part, start, source.size, least, progress)
                if _is_right(source, part):
                    os.replace(part, path)
                    return
                part.unlink()
                # Where the beginning was there before, it may be what is wrong.
                raise _Failed("what it sent has a wrong checksum", again=start > 0)
            except _Failed as error:
                reasons[urlsplit(url).netloc] = str(error)
                if not error.again:
                    left.remove(url)
    kept = part.exists() and part.stat().st_size > 0
    if not kept:
        part.unlink(missing_ok=True)
    raise AktError(
        f"cannot download {path.name} ({'; '.join(f'{k}: {v}' for k, v in reasons.items())}): "
        f"{'try again, which goes on from what came; or ' if kept else ''}get {source.urls[0]} "
        f"elsewhere and put it at {path}, or give {source.instead}"
    )


def _receive(url: str, part: Path, start: int, size: int | None, least: int, progress: bool) -> int:
    """Add to `part` what follows its first `start` bytes, and return where it really began."""
    headers = {"User-Agent": "akt-lab", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=STALL)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return start  # nothing follows
        raise _Failed(f"{error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _Failed(f"not reachable, {_short(getattr(error, 'reason', error))}") from error
    with answer:
        if answer.status != 206:
            start = 0  # it ignores the range
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size not in (None, total):
            raise _Failed(f"its file has {total:,} bytes, not {size:,}")
        name, off = f"{part.stem} from {urlsplit(url).netloc}", not progress
        bar = tqdm(None, name, total, initial=start, unit="B", unit_scale=True, disable=off)
        try:
            with bar, open(part, "ab" if start else "wb") as file:
                for block in _blocks(answer, least):
                    bar.update(file.write(block))
                file.flush()
                os.fsync(file.fileno())
                got = file.tell()
        except OSError as error:
            raise AktError(f"cannot write {part}: {_short(error)}") from error
    if total is not None and got < total:
        raise _Failed(f"it broke off after {got:,} of {total:,} bytes", again=True)
    return start


def _blocks(answer: Any, least: int) -> Iterator[bytes]:
    """What comes, as it comes, while at least `least` bytes a second do."""
    began, count = time.monotonic(), 0
    while True:
        try:
            block = answer.read1(BLOCK)
        except (OSError, HTTPException) as error:
            raise _Failed(f"it broke off, {_short(error)}", again=True) from error
        if not block:
            return
        yield block
        count, spent = count + len(block), time.monotonic() - began
        if spent > WINDOW:
            if count < least * spent:
                raise _Failed(f"slow, {count / spent / 1000:.0f} kB/s", again=True)
            began, count = time.monotonic(), 0


def _short(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no byte in {STALL:g} seconds"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _is_right(source: Source, path: Path) -> bool:
    """Whether the file, or its member, has the checksum."""
    algorithm, digits = source.checksum.split(":")
    try:
        with ExitStack() as stack:
            file: Any = stack.enter_context(open(path, "rb"))
            if source.member:
                file = stack.enter_context(zipfile.ZipFile(file).open(source.member))
            new = partial(hashlib.new, algorithm, usedforsecurity=False)
            digest = hashlib.file_digest(file, new)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError):
        return False
    except OSError as error:
        raise AktError(f"{path} cannot be read: {_short(error)}") from error
    return digest.hexdigest().startswith(digits)
